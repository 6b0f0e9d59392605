import * as m from './measure.ts';

let running = 0, most = 0, started = 0;
const fetchPrice = async (sku: string, signal?: AbortSignal) => {
  most = Math.max(most, ++running);
  started++;
  await new Promise<void>((done, fail) => {
    setTimeout(done, 20);
    signal?.addEventListener('abort', () => fail(signal.reason));
  }).finally(() => { running--; });
  if (sku === 'sku-5') throw new Error('unknown sku');
  return 1;
};
const skus = Array.from({ length: 1_000 }, (_, n) => `sku-${n}`);
<<CELL>>

const failed = await m.outcome((priceAll as any)(skus, new AbortController().signal), 5_000);
const then = running;
await m.sleep(500);
const all = JSON.parse(await m.outcome((priceAll as any)(['a', 'b'], new AbortController().signal), 5_000));
m.verdict(most <= 16 && started < 100 && all.length === 2,
  `1,000 items, one fails: at most ${most} calls at once, ${started} started in all, ${then <= 16 ? 'at most 16' : then} in flight after the rejection`);
