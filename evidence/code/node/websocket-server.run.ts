import { createServer } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { WebSocket as Client } from 'ws';
import * as m from './measure.ts';

const server = createServer().listen(0, '127.0.0.1');
await new Promise((done) => server.once('listening', done));
const { port } = server.address() as AddressInfo;
const ORIGINS = new Set(['https://shop.example']);
const onWsError = () => {};
const setInterval = (work: () => void, ms: number) => globalThis.setInterval(work, ms / 100); // a clock that runs faster
<<CELL>>

const dial = (origin: string) => new Promise<string>((done) => {
  const client = new Client(`ws://127.0.0.1:${port}/`, { origin });
  client.on('open', () => done('accepted')).on('unexpected-response', (_req, res) => done(String(res.statusCode))).on('error', () => {});
});
const stranger = await dial('https://evil.example');
const own = await dial('https://shop.example');
const before = wss.clients.size;
const dead = connect(port, '127.0.0.1'); // upgrades and never answers a ping
dead.write('GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nOrigin: https://shop.example\r\n' +
  'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n');
await m.sleep(1_500); // five rounds of that clock
const kept = wss.clients.size - before;
m.verdict(stranger === '403' && own === 'accepted' && kept === 0 && before === 1,
  `foreign origin: ${stranger}, own: ${own}; a client without pongs: ${kept ? 'still counted' : 'gone'}, one with pongs: ${before >= 1 && wss.clients.size >= 1 ? 'stays' : 'gone'}`);
