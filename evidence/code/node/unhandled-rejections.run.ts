import * as m from './measure.ts';

const loadUser = async (id: string) => { await m.sleep(300); if (id === '2') throw new Error('no user'); return { id }; };
const loadOrders = async (id: string) => { await m.sleep(20); if (id === '1') throw new Error('no orders'); return [{ id }]; };
const audit = async (_user: object) => { await m.sleep(20); throw new Error('audit is away'); };
console.error = () => {};
let unhandled = 0;
process.on('unhandledRejection', () => { unhandled++; });
<<CELL>>

const url = await m.serve(app as any);
const ask = async (id: string) => { const res = await fetch(`${url}/users/${id}`); return `${res.status} ${res.headers.get('content-type')?.split(';')[0]}`; };
const answers = [await ask('1'), await ask('2'), await ask('3')];
await m.sleep(300);
m.verdict(unhandled === 0 && answers[0] === '500 application/json' && answers[2]!.startsWith('200'),
  `3 requests, in each something fails: ${answers.join(', ')}; ${unhandled} rejections unhandled`);
