// The same as run_pip.py for packages of npm, on TensorFlow.js's WebAssembly backend (its native one needs a download).
//     node run_npm.cjs MODEL LIST_OF_FILES     in the folder that has node_modules
const fs = require('fs'), path = require('path'), { fileURLToPath } = require('url');
const modules = path.resolve('node_modules');
const jpeg = require(path.join(modules, 'jpeg-js'));
const wasmPath = path.join(modules, '@tensorflow/tfjs-backend-wasm/dist') + '/';
console.log = console.error; // what packages print is no result
globalThis.fetch = async (url) => new Response(fs.readFileSync(fileURLToPath(url))); // models lie beside us

const peakMb = () => { // of this process: maxRSS would count what it was forked from
  const status = '/proc/self/status';
  return fs.existsSync(status) ? Math.floor(/VmHWM:\s+(\d+)/.exec(fs.readFileSync(status, 'utf8'))[1] / 1024) : '';
};
const pixels = (file) => jpeg.decode(fs.readFileSync(file), { useTArray: true, formatAsRGBA: false });

async function faceApi() {
  require(path.join(modules, '@tensorflow/tfjs-backend-wasm')).setWasmPaths(wasmPath);
  const { tf, nets } = require(path.join(modules, '@vladmandic/face-api/dist/face-api.node-wasm.js'));
  await tf.setBackend('wasm');
  await nets.ageGenderNet.loadFromDisk(path.join(modules, '@vladmandic/face-api/model'));
  return async (file) => {
    const { data, height, width } = pixels(file);
    const input = tf.tensor3d(data, [height, width, 3], 'int32');
    const { age } = await nets.ageGenderNet.predictAgeAndGender(input); // resizes to 112 px, subtracts its own mean
    input.dispose();
    return age;
  };
}

async function human(which) {
  const off = { enabled: false }, models = (name) => `file://${path.join(modules, '@vladmandic', name, 'models')}/`;
  const ssrnet = { enabled: true, modelPathAge: models('human-models') + 'age.json',
    modelPathGender: models('human-models') + 'gender-ssrnet-imdb.json' };
  const { Human } = require(path.join(modules, '@vladmandic/human/dist/human.node-wasm.js'));
  const net = new Human({ backend: 'wasm', wasmPath, modelBasePath: models('human'), cacheSensitivity: 0, filter: off,
    body: off, hand: off, object: off, gesture: off, segmentation: off,
    face: { iris: off, detector: { maxDetected: which === 'faces' ? 10 : 1 }, emotion: off, antispoof: off,
      liveness: off, ...(which === 'ssrnet' ? { ssrnet } : {}) } });
  await net.load();
  const { tf } = net, { faceres, ssrnetage } = net.models.models;
  const run = async (model, input, size) => { // the package's own preparation, without its search for the face
    const output = tf.tidy(() => [model.execute(tf.image.resizeBilinear(input, [size, size]))].flat()
      .find((one) => one.shape[1] === (model === faceres ? 100 : 1)));
    const values = await output.data();
    output.dispose();
    return values;
  };
  const ways = {
    ssrnet: async (input) => { // as its authors feed it: a margin of 0.4 (edges mirrored), blue first; human leaves both out
      const border = [0.4 * input.shape[1], 0.4 * input.shape[1]].map(Math.round);
      const fed = tf.tidy(() => tf.reverse(tf.mirrorPad(input, [[0, 0], border, border, [0, 0]], 'symmetric'), 3));
      try { return (await run(ssrnetage, fed, 64))[0]; } finally { fed.dispose(); }
    },
    faceres: async (input) => { // classes of a year; the package shifts the likeliest towards its likelier neighbour
      const p = await run(faceres, input, 224), i = p.indexOf(Math.max(...p));
      return p[i - 1] > p[i + 1] ? i - 10 * p[i - 1] : i + 10 * p[i + 1];
    },
    faces: async (input) => (await net.detect(input)).face
      .map(({ box: [x, y, width, height], age }) => `${x + width / 2}:${y + height / 2}:${age ?? 'nan'}`).join(' '),
    finds: async (input) => (await net.detect(input)).face.sort((a, b) => b.box[2] - a.box[2])[0]?.age,
  };
  return async (file) => {
    const { data, height, width } = pixels(file);
    const input = tf.tensor(data, [1, height, width, 3], 'float32');
    try { return await ways[which](input); } finally { input.dispose(); }
  };
}

async function main([name, listed]) {
  const predict = await (name === 'face_api' ? faceApi() : human(name.replace('human_', '')));
  for (const file of fs.readFileSync(listed, 'utf8').split('\n').filter(Boolean)) {
    const before = process.cpuUsage();
    let age, reason = 'no face found';
    try { age = await predict(file); } catch (error) { reason = String(error).split('\n')[0].replaceAll(/[",]/g, ' '); }
    const { user, system } = process.cpuUsage(before);
    if (Number.isFinite(age)) age = age.toFixed(2);
    if (age) reason = 'predicted';
    fs.writeSync(1, `${path.basename(file)},${age ?? ''},${((user + system) / 1e6).toFixed(5)},${peakMb()},${reason}\n`);
  }
}

main(process.argv.slice(2)).catch((error) => { console.error(error); process.exit(1); });
