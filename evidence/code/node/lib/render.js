// The worker of the row worker-threads: for piscina its default export, for a bare Worker the message at the end.
import { isMainThread, parentPort, workerData } from 'node:worker_threads';
import { Piscina } from 'piscina';

export default function render(doc) {
  const end = Date.now() + 50;
  while (Date.now() < end);
  return doc.length;
}
if (!isMainThread && !Piscina.isWorkerThread) parentPort.postMessage(render(workerData));
