import { connect, type Socket as Client } from 'node:net';
import type { IncomingMessage, ServerResponse } from 'node:http';
import * as m from './measure.ts';

const PORT = await m.freePort();
const handle = (req: IncomingMessage, res: ServerResponse) => {
  setTimeout(() => res.end('done'), req.url === '/slow' ? 1_500 : 0);
};
const pool = { end: async () => {} };
let status: number | undefined;
process.exit = ((code: number) => { status ??= code; }) as typeof process.exit;
<<CELL>>

await m.sleep(200);
const open = () => new Promise<Client>((done) => { const it = connect(PORT, '127.0.0.1', () => done(it)); it.on('error', () => {}); });
await open(); // a connection on which no byte ever comes
const busy = await open();
let answer = '';
busy.on('data', (data) => { answer += data; });
busy.write('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n');
await m.sleep(200);
const start = performance.now();
const closed = new Promise((done) => server.once('close', done)).then(() => Math.round((performance.now() - start) / 1000));
process.kill(process.pid, 'SIGTERM');
await m.sleep(500);
const late = await fetch(`http://127.0.0.1:${PORT}/`).then((res) => String(res.status), () => 'refused');
const took = await m.outcome(closed, 12_000);
m.verdict(late === '200' && took !== 'late' && answer.includes('done') && status === undefined,
  `0.5 s after SIGTERM a new request: ${late}; slow request ${answer.includes('done') ? 'answered' : 'lost'}; ` +
  (took === 'late' ? 'not closed after 12 s' : `closed after ${took} s`));
