import * as m from './measure.ts';

const redis = { host: '127.0.0.1', port: Number(process.env.REDIS_PORT) };
const [userId, log] = ['u-1', { error() {} }];
let attempts = 0, sent = 0;
const attempt = () => { if (++attempts === 1) throw new Error('mail server is away'); };
const sendOnce = async () => { attempt(); sent++; };
const renderSync = (_data: unknown) => { attempt(); return Buffer.from('pdf'); };
const send = async (_pdf: Buffer) => { sent++; };
<<CELL>>

await queue.waitUntilReady();
const jobs = async () => Object.values(await queue.getJobCounts()).reduce((sum, n) => sum + n, 0);
if (!attempts && !(await jobs())) await queue.add('welcome', { userId });
for (let n = 0; n < 80 && !sent; n++) await m.sleep(100);
await m.sleep(300);
const { failed } = await queue.getJobCounts();
const schedules = (await queue.getJobSchedulers()).length + (await queue.getDelayedCount());
await queue.obliterate({ force: true });
m.verdict(sent === 1 && attempts === 2 && failed === 0,
  `first attempt fails: ${attempts} attempts, ${sent} mails sent, ${failed} jobs left failed, ${schedules} runs planned`);
