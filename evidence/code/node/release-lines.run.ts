import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { certificate } from './certificates.ts';
import * as m from './measure.ts';

if (!process.env.AGAIN) {
  const old = certificate('localhost', '-newkey', 'rsa:1024', '-sha256');
  const impostor = certificate('localhost');
  const start = async (options: https.ServerOptions) => {
    const server = https.createServer(options, (_req, res) => { res.end('ok'); }).on('tlsClientError', () => {}).listen(0, '127.0.0.1');
    await new Promise((done) => server.once('listening', done));
    return `https://localhost:${(server.address() as AddressInfo).port}/`;
  };
  const weak = await start({ key: old.key, cert: old.cert, ciphers: 'DEFAULT@SECLEVEL=0' });
  const { output } = await m.again({ PARTNER: weak, IMPOSTOR: await start(impostor), NODE_EXTRA_CA_CERTS: old.file });
  const lines = Object.fromEntries([...output.matchAll(/^(\w+): (.*)$/gm)].map(([, name, what]) => [name, what]));
  m.verdict(lines.partner === '200' && lines.elsewhere !== '200' && lines.impostor !== '200',
    `1024-bit key at the partner: ${lines.partner}; anywhere else: ${lines.elsewhere}; a certificate that nobody trusts: ${lines.impostor}`);
}
const PARTNER_URL = process.env.PARTNER!;
<<CELL>>

console.log(`partner: ${res.status}`);
const get = (url: string) => new Promise((done) => https.get(url, { agent: false }, (answer) => done(answer.statusCode))
  .on('error', (error: NodeJS.ErrnoException) => done(error.message.includes('too weak') ? 'certificate key too weak' : error.code)));
console.log(`elsewhere: ${await get(PARTNER_URL)}`);
console.log(`impostor: ${await get(process.env.IMPOSTOR!)}`);
process.exit(0);
