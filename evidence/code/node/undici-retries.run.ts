import * as m from './measure.ts';

let calls = 0;
const STOCK_URL = await m.serve((_req, res) => { calls++; res.writeHead(503).end('busy'); });
<<CELL>>

const start = performance.now();
const read = await m.outcome(stock('a'), 8_000);
const took = ((performance.now() - start) / 1000).toFixed(0);
const reads = calls;
calls = 0;
const { request: plain } = await import('undici'); // another module of the same process deletes something
const removal = await m.outcome(plain(`${STOCK_URL}/items/a`, { method: 'DELETE' }).then((res) => res.statusCode), 5_000);
m.verdict(read.includes('503') && Number(took) <= 2 && calls === 1,
  `GET answered 503: ${reads} calls in ${took} s, then ${read}; DELETE elsewhere: ${calls} calls, ${removal}`);
