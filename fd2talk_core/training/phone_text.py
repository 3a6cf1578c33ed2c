"""Short everyday sentences in many languages, written for this project, and random text made from them."""

from __future__ import annotations

import numpy as np

# Japanese is in kana and Chinese in pinyin: espeak-ng spells out characters it lacks as "Chinese letter".
SENTENCES: dict[str, list[str]] = {
    "en": """
The weather will stay warm until the end of the week.
Could you please pass me the butter and the bread?
My brother bought five oranges at the market.
She thinks that those three books belong on the other shelf.
We usually measure the pressure before every journey.
Why did you leave the window open all night?
Good morning, everybody, and welcome to the show.
The quick grey mouse jumped over a pile of yellow leaves.
I would rather have a cup of coffee than a glass of milk.
Nobody knows how the old church caught fire.
Put the purple vase beside the big blue boxes.
Fresh fish and warm chips, only five pounds a plate!
He gave his daughter a small wooden toy for her birthday.
What a lovely voice you have, said the young judge.
Turn left at the bridge, then go straight for two miles.
The children were singing songs about bears, boats and bees.
If it rains tomorrow, we shall play chess in the kitchen.
Very few people have ever visited that far away village.
Please remember to bring your passport and both tickets.
An honest answer is worth more than a hundred promises.
Mom and Bob baked a pumpkin pie while the puppy slept.
The thief threw the feather through the frozen fence.
Yes, of course. No problem at all. Thank you very much!
Our new teacher always wears a red scarf and black shoes.
""",
    "de": """
Heute scheint die Sonne, aber morgen soll es regnen.
Können Sie mir bitte sagen, wie spät es ist?
Meine Schwester hat fünf frische Brötchen gekauft.
Der Zug nach München fährt um halb acht vom zweiten Gleis.
Wir möchten gern einen Tisch für vier Personen.
Das Pferd springt hoch über den schmalen Bach.
Ich habe gestern ein schönes Buch über Vögel gelesen.
Warum hast du die Tür nicht zugemacht?
Im Frühling blühen überall gelbe Blumen.
Unser Nachbar spielt jeden Abend leise Klavier.
Vielen Dank für deine Hilfe, das war sehr nett.
Zwölf Mönche trugen schwere Töpfe durch den Wald.
Papa und Mama backen zusammen einen Apfelkuchen.
Er wohnt seit neun Jahren in einer kleinen Wohnung.
""",
    "fr": """
Bonjour, comment allez-vous aujourd'hui ?
Je voudrais un café et deux croissants, s'il vous plaît.
Le petit chat noir dort sur le fauteuil rouge.
Nous avons mangé du poisson au bord de la mer.
Pourquoi est-ce que tu ne viens pas avec nous ?
Ma voisine chante une vieille chanson chaque matin.
Il fait beau, mais le vent est un peu froid.
Les enfants jouent au ballon dans le jardin.
Elle a vu un grand oiseau bleu sur le pont.
Un bon vin blanc, du pain et du beurre.
Mon oncle habite une maison jaune près de l'église.
Quelle heure est-il ? Il est bientôt neuf heures.
J'ai perdu mes clefs sous un tas de feuilles.
Papa prépare une bonne soupe aux champignons.
""",
    "es": """
Buenos días, ¿cómo está usted?
Mi hermano vive en una casa pequeña cerca del río.
Quiero un vaso de agua fría, por favor.
El perro negro corre detrás de la pelota.
Mañana vamos a viajar en tren a la montaña.
¿Por qué no me llamaste ayer por la noche?
La abuela prepara una sopa muy buena.
Los niños juegan y cantan en la plaza.
Hace mucho viento, pero no llueve.
Me gusta leer libros antes de dormir.
Compré cinco manzanas y dos kilos de naranjas.
El jefe llegó tarde a la reunión del jueves.
Muchas gracias por tu ayuda, amigo.
Bebemos vino blanco y comemos pan fresco.
""",
    "it": """
Buongiorno, vorrei un caffè e un bicchiere d'acqua.
Mia sorella abita in una piccola casa vicino al mare.
Che ore sono? Sono quasi le nove e mezza.
Il gatto nero dorme sopra la sedia rossa.
Domani andiamo in montagna con gli amici.
Perché non hai chiuso la finestra?
La nonna prepara una zuppa di fagioli.
I bambini giocano a palla nel giardino.
Oggi fa bel tempo, ma tira vento.
Ho comprato cinque mele e due pani freschi.
Grazie mille, sei stato molto gentile.
Lo zio Giuseppe racconta sempre la stessa storia.
Mi piace leggere un libro prima di dormire.
""",
    "pt": """
Bom dia, como você está hoje?
Minha irmã mora numa casa amarela perto da praia.
Eu queria um copo de água e um pão, por favor.
O cachorro preto corre atrás da bola.
Amanhã vamos viajar de trem para o campo.
Por que você não fechou a janela?
A avó faz uma sopa muito boa.
As crianças brincam e cantam no jardim.
Hoje faz sol, mas o vento está frio.
Comprei cinco laranjas e um quilo de feijão.
Muito obrigado pela sua ajuda.
Não gosto de chegar tarde ao trabalho.
Meu pai lê o jornal depois do jantar.
""",
    "ru": """
Доброе утро, как у вас дела?
Моя сестра живёт в маленьком доме у реки.
Дайте, пожалуйста, стакан воды и хлеб.
Чёрная собака бежит за мячом.
Завтра мы поедем на поезде в горы.
Почему ты не закрыл окно?
Бабушка варит очень вкусный суп.
Дети играют и поют в саду.
Сегодня тепло, но дует сильный ветер.
Я купил пять яблок и бутылку молока.
Большое спасибо за помощь.
Мой дядя каждый вечер читает газету.
Мы уже были в этом городе летом.
Папа и мама пьют чай на кухне.
""",
    "cmn": """
ni3 hao3, jin1 tian1 tian1 qi4 hen3 hao3.
wo3 xiang3 he1 yi4 bei1 cha2, xie4 xie5.
wo3 de5 jie3 jie5 zhu4 zai4 he2 bian1 de5 xiao3 fang2 zi5 li3.
ming2 tian1 wo3 men5 zuo4 huo3 che1 qu4 bei3 jing1.
ni3 wei4 shen2 me5 mei2 you3 guan1 chuang1 hu5?
nai3 nai5 zuo4 de5 tang1 fei1 chang2 hao3 chi1.
hai2 zi5 men5 zai4 hua1 yuan2 li3 chang4 ge1.
hei1 se4 de5 gou3 pao3 de5 hen3 kuai4.
qing3 wen4, xian4 zai4 ji3 dian3 le5?
wo3 mai3 le5 wu3 ge4 ping2 guo3 he2 san1 ben3 shu1.
ba4 ba5 mei3 tian1 wan3 shang5 kan4 bao4 zhi3.
zhe4 ge4 xue2 xiao4 you3 hen3 duo1 xue2 sheng5.
bu2 ke4 qi5, wo3 men5 xia4 ci4 zai4 jian4.
ta1 shuo1 zhong1 wen2 shuo1 de5 bu2 cuo4.
""",
    "ja": """
おはようございます。 おげんきですか。
あした ともだちと うみへ いきます。
みずを いっぱい ください。
くろい いぬが にわを はしっています。
きのう おもしろい ほんを よみました。
なぜ まどを しめなかったのですか。
おばあさんは おいしい すーぷを つくります。
こどもたちは こうえんで うたっています。
きょうは いい てんきですが かぜが つよいです。
りんごを いつつと ぱんを かいました。
どうも ありがとう ございました。
ちちは まいばん しんぶんを よみます。
えきは どこに ありますか。
ふゆは ゆきが たくさん ふります。
""",
    "ko": """
안녕하세요, 오늘 날씨가 참 좋습니다.
물 한 잔 주세요.
내일 친구들과 바다에 갈 거예요.
검은 개가 공을 따라 뛰어갑니다.
왜 창문을 닫지 않았어요?
할머니는 맛있는 국을 끓이십니다.
아이들이 마당에서 노래를 부릅니다.
어제 재미있는 책을 읽었습니다.
사과 다섯 개와 빵을 샀어요.
도와주셔서 정말 감사합니다.
아버지는 매일 저녁 신문을 읽으십니다.
지금 몇 시예요?
""",
    "ar": """
صباح الخير، كيف حالك اليوم؟
أريد كوبا من الماء من فضلك.
يعيش أخي في بيت صغير قرب النهر.
الكلب الأسود يجري وراء الكرة.
سنسافر غدا بالقطار إلى الجبل.
لماذا لم تغلق النافذة؟
جدتي تطبخ حساء لذيذا.
الأطفال يلعبون في الحديقة.
الجو جميل لكن الريح قوية.
اشتريت خمس تفاحات وخبزا.
شكرا جزيلا على المساعدة.
أبي يقرأ الجريدة كل مساء.
كم الساعة الآن؟
""",
    "nl": """
Goedemorgen, hoe gaat het met u?
Mijn zus woont in een klein huis bij de rivier.
Mag ik een glas water en een broodje kaas?
De zwarte hond rent achter de bal aan.
Morgen gaan we met de trein naar zee.
Waarom heb je het raam niet dichtgedaan?
Oma kookt een heerlijke soep.
De kinderen zingen en spelen in de tuin.
Het is mooi weer, maar de wind is koud.
Ik heb vijf appels en twee boeken gekocht.
Hartelijk dank voor je hulp.
Vader leest elke avond de krant.
Het is nu bijna half negen.
""",
    "pl": """
Dzień dobry, jak się pan dzisiaj czuje?
Moja siostra mieszka w małym domu nad rzeką.
Poproszę szklankę wody i chleb z masłem.
Czarny pies biegnie za piłką.
Jutro jedziemy pociągiem w góry.
Dlaczego nie zamknąłeś okna?
Babcia gotuje bardzo dobrą zupę.
Dzieci śpiewają i bawią się w ogrodzie.
Dziś jest ładna pogoda, ale wieje wiatr.
Kupiłem pięć jabłek i dwie książki.
Bardzo dziękuję za pomoc.
Mój wujek co wieczór czyta gazetę.
Która jest teraz godzina?
""",
    "tr": """
Günaydın, bugün nasılsınız?
Kız kardeşim nehrin yanında küçük bir evde oturuyor.
Bir bardak su ve ekmek istiyorum.
Siyah köpek topun arkasından koşuyor.
Yarın trenle dağa gideceğiz.
Pencereyi neden kapatmadın?
Büyükannem çok güzel çorba yapar.
Çocuklar bahçede şarkı söylüyor.
Bugün hava güzel ama rüzgar soğuk.
Beş elma ve iki kitap aldım.
Yardımınız için çok teşekkür ederim.
Babam her akşam gazete okur.
""",
    "hi": """
नमस्ते, आप कैसे हैं?
मुझे एक गिलास पानी चाहिए।
मेरी बहन नदी के पास एक छोटे घर में रहती है।
काला कुत्ता गेंद के पीछे दौड़ रहा है।
कल हम रेलगाड़ी से पहाड़ जाएँगे।
तुमने खिड़की क्यों नहीं बंद की?
दादी बहुत अच्छा खाना बनाती हैं।
बच्चे बगीचे में गा रहे हैं।
आज मौसम अच्छा है, पर हवा ठंडी है।
मैंने पाँच सेब और दो किताबें खरीदीं।
आपकी मदद के लिए बहुत धन्यवाद।
पिताजी हर शाम अखबार पढ़ते हैं।
अभी कितने बजे हैं?
""",
    "sv": """
God morgon, hur mår du idag?
Min syster bor i ett litet hus vid sjön.
Kan jag få ett glas vatten och en smörgås?
Den svarta hunden springer efter bollen.
I morgon åker vi tåg till fjällen.
Varför stängde du inte fönstret?
Mormor lagar en mycket god soppa.
Barnen sjunger och leker i trädgården.
Det är vackert väder men vinden är kall.
Jag köpte fem äpplen och två böcker.
Tack så mycket för hjälpen.
Pappa läser tidningen varje kväll.
Sju sköna sjömän sköljde skeppet.
""",
    "cs": """
Dobrý den, jak se dnes máte?
Moje sestra bydlí v malém domě u řeky.
Prosím sklenici vody a chleba s máslem.
Černý pes běží za míčem.
Zítra pojedeme vlakem do hor.
Proč jsi nezavřel okno?
Babička vaří velmi dobrou polévku.
Děti zpívají a hrají si na zahradě.
Dnes je hezky, ale fouká studený vítr.
Koupil jsem pět jablek a dvě knihy.
Mockrát děkuji za pomoc.
Můj strýc čte každý večer noviny.
Tři sta třicet tři stříbrných křepelek.
""",
    "id": """
Selamat pagi, apa kabar hari ini?
Saya mau segelas air dan sepotong roti.
Adik saya tinggal di rumah kecil dekat sungai.
Anjing hitam itu mengejar bola.
Besok kami naik kereta api ke gunung.
Mengapa kamu tidak menutup jendela?
Nenek memasak sup yang sangat enak.
Anak-anak bernyanyi di kebun.
Hari ini cerah, tetapi anginnya dingin.
Saya membeli lima apel dan dua buku.
Terima kasih banyak atas bantuannya.
Bapak membaca koran setiap malam.
Jam berapa sekarang?
""",
    "vi": """
Xin chào, hôm nay bạn có khỏe không?
Tôi muốn một ly nước và một ổ bánh mì.
Chị tôi sống trong ngôi nhà nhỏ gần sông.
Con chó đen chạy theo quả bóng.
Ngày mai chúng tôi đi tàu hỏa lên núi.
Tại sao bạn không đóng cửa sổ?
Bà nấu món canh rất ngon.
Trẻ em hát và chơi trong vườn.
Hôm nay trời đẹp nhưng gió lạnh.
Tôi đã mua năm quả táo và hai cuốn sách.
Cảm ơn bạn rất nhiều vì đã giúp đỡ.
Bố tôi đọc báo mỗi buổi tối.
Bây giờ là mấy giờ?
""",
    "el": """
Καλημέρα, πώς είστε σήμερα;
Θέλω ένα ποτήρι νερό και ψωμί, παρακαλώ.
Η αδερφή μου μένει σε ένα μικρό σπίτι κοντά στο ποτάμι.
Ο μαύρος σκύλος τρέχει πίσω από την μπάλα.
Αύριο θα πάμε με το τρένο στο βουνό.
Γιατί δεν έκλεισες το παράθυρο;
Η γιαγιά φτιάχνει πολύ καλή σούπα.
Τα παιδιά τραγουδούν στον κήπο.
Σήμερα έχει ήλιο, αλλά φυσάει.
Αγόρασα πέντε μήλα και δύο βιβλία.
Ευχαριστώ πολύ για τη βοήθεια.
Ο πατέρας μου διαβάζει κάθε βράδυ εφημερίδα.
""",
    "fi": """
Hyvää huomenta, mitä sinulle kuuluu?
Siskoni asuu pienessä talossa joen rannalla.
Saisinko lasin vettä ja palan leipää?
Musta koira juoksee pallon perässä.
Huomenna matkustamme junalla tuntureille.
Miksi et sulkenut ikkunaa?
Isoäiti keittää hyvää keittoa.
Lapset laulavat ja leikkivät pihalla.
Tänään on kaunis ilma, mutta tuuli on kylmä.
Ostin viisi omenaa ja kaksi kirjaa.
Paljon kiitoksia avustasi.
Isä lukee lehteä joka ilta.
Yö oli pimeä ja hyvin hiljainen.
""",
    "hu": """
Jó reggelt, hogy van ma?
A nővérem egy kis házban lakik a folyó mellett.
Kérek egy pohár vizet és egy szelet kenyeret.
A fekete kutya a labda után szalad.
Holnap vonattal megyünk a hegyekbe.
Miért nem csuktad be az ablakot?
A nagymama nagyon finom levest főz.
A gyerekek énekelnek és játszanak a kertben.
Ma szép idő van, de hideg a szél.
Vettem öt almát és két könyvet.
Köszönöm szépen a segítséget.
Apám minden este újságot olvas.
Hány óra van most?
""",
    "ro": """
Bună dimineața, ce mai faceți?
Aș vrea un pahar cu apă și niște pâine.
Sora mea locuiește într-o casă mică lângă râu.
Câinele negru aleargă după minge.
Mâine mergem cu trenul la munte.
De ce nu ai închis fereastra?
Bunica gătește o supă foarte bună.
Copiii cântă și se joacă în grădină.
Astăzi este frumos, dar bate vântul.
Am cumpărat cinci mere și două cărți.
Mulțumesc mult pentru ajutor.
Tata citește ziarul în fiecare seară.
Cât este ceasul acum?
""",
}
SENTENCES = {language: text.strip().split("\n") for language, text in SENTENCES.items()}

_COMMAND = [
    ["bin", "lay", "place", "set"],
    ["blue", "green", "red", "white"],
    ["at", "by", "in", "with"],
    list("abcdefghijklmnopqrstuvxyz"),
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
    ["again", "now", "please", "soon"],
]


def _number(rng: np.random.Generator) -> str:
    return str(int(10 ** rng.uniform(0, 4.5)))


def _shuffled(rng: np.random.Generator, language: str) -> str:
    """Words of several sentences in random order: what a word predicts about the next one is worth nothing."""
    chosen = " ".join(rng.choice(SENTENCES[language], 3))
    words = [w.strip(".,!?;:¿¡،؟।") for w in chosen.split()]
    words = [w for w in words if w]
    return " ".join(rng.permutation(words)[: int(rng.integers(5, 12))])


def random_text(rng: np.random.Generator, language: str) -> str:
    """One utterance of about 2 to 6 s: a sentence or two, shuffled words, numbers; in English also commands.

    Args:
        language: a key of SENTENCES.
    """
    kind = rng.random()
    if language == "en" and kind < 0.2:
        return " ".join(str(rng.choice(words)) for words in _COMMAND)
    if language == "en" and kind < 0.27:
        return ", ".join(rng.choice(_COMMAND[3], int(rng.integers(4, 9))))
    if kind < 0.35:
        return ", ".join(_number(rng) for _ in range(int(rng.integers(2, 5))))
    if kind < 0.65:
        return _shuffled(rng, language)
    return " ".join(rng.choice(SENTENCES[language], 1 if kind < 0.85 else 2))
