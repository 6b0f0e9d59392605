import * as m from './measure.ts';

let workers = 0;
process.on('worker', () => { workers++; });
<<CELL>>

const calls = Array.from({ length: 40 }, () => (render as any)(new Uint8Array(1_000), new AbortController().signal));
const done = await Promise.allSettled(calls);
const answered = done.filter((it) => it.status === 'fulfilled').length;
m.verdict(workers <= 2 && answered >= 20 && answered <= 22, `40 jobs at once: ${workers} workers started, ${answered} jobs answered, ${40 - answered} refused`);
