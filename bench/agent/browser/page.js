// Loads one ONNX file in ONNX Runtime Web and times its calls. Driven from outside through `edgefit.ask`.
import * as ort from './ort.mjs';

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, uint8: Uint8Array, int8: Int8Array,
  float16: globalThis.Float16Array,
};
let provider, session, outputs, feeds = [], next = 0;

/** Readings of the clock, each different from the one before. */
function stamps(count) {
  const found = [performance.now()];
  while (found.length < count) {
    const now = performance.now();
    if (now !== found[found.length - 1]) found.push(now);
  }
  return found;
}

async function start(name, threads) {
  provider = name;
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = new URL('.', location).href;
  ort.env.logLevel = 'error';
  const adapter = name === 'webgpu' && navigator.gpu ? await navigator.gpu.requestAdapter() : null;
  const gpu = adapter ? [adapter.info.vendor, adapter.info.architecture, adapter.info.description].filter(Boolean).join(' ') : null;
  if (name !== 'webgpu' || adapter) await initialise();
  return {
    version: ort.env.versions.web, threads: ort.env.wasm.numThreads, isolated: crossOriginIsolated,
    stamps: stamps(200), gpu,
  };
}

/** The WebAssembly is compiled with the first session: an empty one, so that the model's own load is told alone. */
async function initialise() {
  try {
    await ort.InferenceSession.create(new Uint8Array(0), {executionProviders: [provider]});
  } catch (error) {
    if (!String(error.message).includes('ERROR_CODE')) throw error;  // not the runtime's own answer
  }
}

async function load(address) {
  const bytes = new Uint8Array(await bytesOf(address));
  const begin = performance.now();
  session = await ort.InferenceSession.create(bytes, {executionProviders: [provider]});
  const took = performance.now() - begin;
  const told = (all) => all.map(({name, type, shape}) => ({name, dtype: type ?? 'no tensor', shape: shape ?? []}));
  return {took, inputs: told(session.inputMetadata), outputs: told(session.outputMetadata)};
}

async function bytesOf(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${answer.status} for what the page was to fetch`);
  return answer.arrayBuffer();
}

/** What the next calls are fed, by turns. */
async function feed(batches) {
  feeds = [];
  next = 0;
  for (const batch of batches) {
    const buffer = await bytesOf(batch.address);
    const data = batch.pixels ? normalise(new Uint8Array(buffer), batch.pixels) : new ARRAYS[batch.dtype](buffer);
    feeds.push({[session.inputNames[0]]: new ort.Tensor(batch.dtype, data, batch.shape)});
  }
}

/** 8-bit images (n, H, W, C) to float32: (x / 255 - mean) / std, each step rounded to 32 bits. */
function normalise(pixels, {mean, std, first}) {
  const f = Math.fround, channels = mean.length, plane = pixels.length / channels;
  const values = new Float32Array(pixels.length);
  for (let c = 0; c < channels; c++) {
    const table = Float32Array.from({length: 256}, (_, x) => f(f(f(x / 255) - mean[c]) / std[c]));
    if (first) {  // channels first: `first` is the number of pixels of an image
      for (let i = 0; i < plane; i++) {
        const image = Math.floor(i / first);
        values[(image * channels + c) * first + (i - image * first)] = table[pixels[i * channels + c]];
      }
    } else {
      for (let i = c; i < pixels.length; i += channels) values[i] = table[pixels[i]];
    }
  }
  return values;
}

/** Milliseconds of one call. */
async function call() {
  const begin = performance.now();
  outputs = await session.run(feeds[0]);
  return performance.now() - begin;
}

/** Calls for so long: milliseconds of each, or the mean of each `repeats` of them. */
async function block(milliseconds, repeats) {
  const samples = [], end = performance.now() + milliseconds;
  do {
    const begin = performance.now();
    for (let i = 0; i < repeats; i++) {
      outputs = await session.run(feeds[next]);
      next = next + 1 < feeds.length ? next + 1 : 0;
    }
    samples.push((performance.now() - begin) / repeats);
  } while (performance.now() < end);
  return samples;
}

/** The output of the last call; its bytes in base64. */
async function output() {
  const tensor = outputs[session.outputNames[0]], data = await tensor.getData();
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength), parts = [];
  for (let i = 0; i < bytes.length; i += 8192) parts.push(String.fromCharCode(...bytes.subarray(i, i + 8192)));
  return {dtype: tensor.type, shape: tensor.dims, base64: btoa(parts.join(''))};
}

const ASKED = {start, load, feed, call, block, output};
globalThis.edgefit = {
  async ask(name, given) {
    try {
      return {value: await ASKED[name](...given)};
    } catch (error) {
      return {error: String(error.message ?? error)};
    }
  },
};
