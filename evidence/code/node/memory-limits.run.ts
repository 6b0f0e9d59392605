import * as m from './measure.ts';

const download = async (key: string) => Buffer.alloc(2 ** 20, key);
console.log = () => {};
<<CELL>>

for (let n = 0; n < 400; n++) await load(`image-${n}`);
await m.sleep(10);
(globalThis as any).gc();
const held = Math.round(process.memoryUsage().external / 2 ** 20);
const again = await load('image-399');
m.verdict(held < 150 && again?.length === 2 ** 20, `400 files of 1 MiB loaded once each, held afterwards: ${held < 150 ? 'less than 150' : 'about 400'} MiB`);
