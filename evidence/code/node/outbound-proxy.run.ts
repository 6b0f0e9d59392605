import dns from 'node:dns';
import { createServer as tlsServer } from 'node:https';
import { connect, type AddressInfo } from 'node:net';
import { createServer } from 'node:http';
import { certificate } from './certificates.ts';
import * as m from './measure.ts';

if (!process.env.AGAIN) {
  const { key, cert, file } = certificate('partner.example');
  let answered = 0;
  const tunnels: string[] = [];
  const partner = tlsServer({ key, cert }, (_req, res) => { answered++; res.end('{}'); }).listen(0, '127.0.0.1');
  const proxy = createServer().on('connect', (req, client) => {
    tunnels.push(req.url!);
    const tunnel = connect((partner.address() as AddressInfo).port, '127.0.0.1', () => {
      client.write('HTTP/1.1 200 OK\r\n\r\n');
      client.on('error', () => {}).pipe(tunnel).on('error', () => {}).pipe(client);
    });
  }).listen(0, '127.0.0.1');
  await new Promise((done) => proxy.once('listening', done));
  const HTTPS_PROXY = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  const { output } = await m.again({ HTTPS_PROXY, NODE_EXTRA_CA_CERTS: file }, 6_000);
  const direct = output.includes('direct: partner.example');
  m.verdict(answered === 1 && tunnels[0] === 'partner.example:443' && !direct,
    `through the proxy: ${tunnels[0] ?? 'nothing'}, answered ${answered}; past it: ${direct ? 'partner.example' : 'nothing'}`);
}
dns.lookup = ((host: string, _options: object, done: (error: Error) => void) => {
  console.log(`direct: ${host}`);
  done(Object.assign(new Error('ENOTFOUND'), { code: 'ENOTFOUND' }));
}) as unknown as typeof dns.lookup;
<<CELL>>
