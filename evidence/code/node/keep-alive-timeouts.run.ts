import { connect } from 'node:net';
import type { IncomingMessage, ServerResponse } from 'node:http';
import * as m from './measure.ts';

const PORT = await m.freePort();
const handle = (_req: IncomingMessage, res: ServerResponse) => { res.end('done'); };
<<CELL>>

await m.sleep(200);
const socket = connect(PORT, '127.0.0.1');
let answers = 0, ended = false;
socket.on('data', (data) => { answers += String(data).split('HTTP/1.1 200').length - 1; });
socket.on('error', () => {}).on('close', () => { ended = true; });
socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
await m.sleep(8_000); // a balancer with 60 s idle time would reuse it now
socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
await m.sleep(500);
m.verdict(answers === 2 && !ended && server.requestTimeout > 0,
  `after 8 s idle: ${ended ? 'connection closed' : 'connection open'}, ${answers} of 2 requests answered; requestTimeout ${server.requestTimeout} ms`);
