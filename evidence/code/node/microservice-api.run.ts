import * as m from './measure.ts';

const seen: string[] = [];
process.env.STOCK_URL = await m.serve((req, res) => {
  seen.push(req.url!);
  if (req.url === '/stock/OK') res.setHeader('content-type', 'application/json').end('{"left":3}'); // else it hangs
});
const PORT = await m.freePort();
const db = { query: () => new Promise(() => {}) };
process.stdout.write = (() => true) as typeof process.stdout.write;
<<CELL>>

const order = (sku: unknown, host = '127.0.0.1') => fetch(`http://${host}:${(app.server.address() as any).port}/orders`, {
  method: 'POST', body: JSON.stringify({ sku }), headers: { 'content-type': 'application/json' },
}).then((res) => res.status);
const outside = await m.outcome(order('OK', '127.0.0.2'), 3_000);
const bad = await m.outcome(order({ a: 1 }), 4_000);
const slow = await m.outcome(order('SLOW'), 4_000);
const dots = await m.outcome(order('..'), 4_000);
m.verdict(outside === '200' && bad === '400' && slow === '504' && dots === '400',
  `through another address: ${outside}; wrong type: ${bad}; hanging dependency: ${slow}; sku "..": ${dots}, last path called ${seen.at(-1)}`);
