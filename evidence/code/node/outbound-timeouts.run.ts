import * as m from './measure.ts';

let sockets = 0;
const STOCK_URL = await m.serve((req, res) => {
  if (req.socket.listenerCount('x') === 0) { sockets++; req.socket.on('x', () => {}); }
  if (req.url === '/items/slow') { res.write('{'); return; } // headers at once, a body that never ends
  res.writeHead(503).end('x'.repeat(100_000));
});
<<CELL>>

const call = (sku: string) => stock(sku, new AbortController().signal) as Promise<unknown>;
const start = performance.now();
const hanging = await m.outcome(call('slow'), 6_000);
const took = Math.round((performance.now() - start) / 1000);
sockets = 0;
for (let n = 0; n < 20; n++) await m.outcome(call('gone'), 2_000);
m.verdict(hanging !== 'late' && took <= 3 && sockets <= 2,
  `body that never ends: ${hanging === 'late' ? 'still waiting after 6 s' : `${hanging.split(':')[0]} after ${took} s`}; 20 answers 503 in turn used ${sockets} connections`);
