// Reads .safetensors files: eight bytes of header length, a JSON header, then the numbers.

const ARRAYS = { F32: Float32Array, I16: Int16Array, U8: Uint8Array };

/** ArrayBuffer -> { tensors: name -> { shape, data: typed array }, metadata }. Throws on anything else. */
export function readSafetensors(buffer) {
  if (buffer.byteLength < 8) throw new Error("The file is empty or cut off.");
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const body = 8 + length;
  if (body > buffer.byteLength) throw new Error("The file is no safetensors file, or cut off.");
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const { __metadata__: metadata = {}, ...entries } = header;
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [start, end] }] of Object.entries(entries)) {
    const kind = ARRAYS[dtype];
    if (!kind) throw new Error(`The file holds numbers of the type ${dtype}, unknown to this version.`);
    // A slice, because a view would have to begin at a multiple of its numbers' size.
    tensors[name] = { shape, data: new kind(buffer.slice(body + start, body + end)) };
  }
  return { tensors, metadata };
}
