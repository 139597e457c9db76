// A page that leaves everything to a worker.
globalThis.runSmoke = (task) =>
  new Promise((done) => {
    const worker = new Worker(new URL('./worker.mjs', import.meta.url), { type: 'module' });
    worker.onmessage = ({ data }) => done(data);
    worker.onerror = ({ message }) => done({ failed: `the worker failed: ${message}` });
    worker.postMessage(task);
  });
