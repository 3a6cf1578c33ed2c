// Time that runs: with the sound when there is one, else by the clock.

export class Player {
  /** onTime(seconds, playing) is called on every picture while playing, and after each seek. */
  constructor(onTime) {
    this.onTime = onTime;
    this.duration = 0;
    this.playing = false;
    this.seconds = 0;
    this.sound = null;
    this.request = 0;
  }

  /** url: of a sound, or null. */
  load(url, duration) {
    this.pause();
    this.duration = duration;
    this.sound = url ? new Audio(url) : null;
    if (this.sound) this.sound.preload = "auto";
    this.seek(Math.min(this.seconds, duration));
  }

  /** Past its end the sound no longer tells the time, though the motion may go on. */
  get heard() {
    return this.sound && !this.sound.error && !this.sound.paused && !this.sound.ended;
  }

  seek(seconds) {
    this.seconds = Math.min(Math.max(0, seconds), this.duration);
    this.since = performance.now() - this.seconds * 1000;
    if (this.sound) {
      this.sound.currentTime = this.seconds;
      if (this.playing && this.sound.paused) this.sound.play().catch(() => {});
    }
    this.onTime(this.seconds, this.playing);
  }

  async play() {
    if (this.playing || !this.duration) return;
    this.playing = true;
    this.seek(this.seconds >= this.duration - 1e-3 ? 0 : this.seconds);
    this.request = requestAnimationFrame(() => this.tick());
  }

  tick() {
    if (!this.playing) return;
    const now = performance.now();
    if (this.heard) {
      this.seconds = this.sound.currentTime;
      this.since = now - this.seconds * 1000;
    } else {
      this.seconds = (now - this.since) / 1000;
    }
    if (this.seconds >= this.duration) {
      this.pause();
      this.seek(this.duration);
      return;
    }
    this.onTime(this.seconds, true);
    this.request = requestAnimationFrame(() => this.tick());
  }

  pause() {
    cancelAnimationFrame(this.request);
    this.playing = false;
    this.sound?.pause();
    this.onTime(this.seconds, false);
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }
}
