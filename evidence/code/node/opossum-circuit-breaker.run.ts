import * as m from './measure.ts';

let calls = 0, status = 500;
const base = await m.serve((_req, res) => {
  calls++;
  res.statusCode = calls === 1 ? 500 : status;
  res.end('{"price":5}');
});
const fetch = (url: string, init?: RequestInit) => globalThis.fetch(url.replace('https://pricing.internal', base), init);
const cachedPrice = (sku: string) => ({ sku, cached: true });
<<CELL>>

const ask = (): Promise<any> => (typeof pricing === 'object' ? pricing.fire('a') : price('a')) as Promise<any>;
status = 200;
for (let n = 0; n < 5; n++) await ask().catch(() => {}); // one failure, then health
const healthy = calls;
status = 503;
for (let n = 0; n < 100; n++) await ask().catch(() => {});
m.verdict(healthy === 5 && calls - healthy < 50, `of 5 calls after one failure ${healthy} went out; of 100 calls to a failing dependency ${calls - healthy}`);
