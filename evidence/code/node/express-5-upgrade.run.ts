import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import * as m from './measure.ts';

process.chdir(mkdtempSync(`${tmpdir()}/express-`));
mkdirSync('public/.well-known', { recursive: true });
writeFileSync('public/.env', 'SECRET=1');
writeFileSync('public/.well-known/security.txt', 'Contact: us');
const PORT = await m.freePort();
const taken = createServer().listen(PORT);
await new Promise((done) => taken.once('listening', done));
let logged = '', crash = '';
console.log = (line: string) => { logged = line; };
process.on('uncaughtException', (error: NodeJS.ErrnoException) => { crash = error.code ?? error.message; });
<<CELL>>

await m.sleep(300);
const url = await m.serve(app as any);
const status = async (path: string, init?: RequestInit) => (await fetch(url + path, init)).status;
const secret = await status('/.env');
const known = await status('/.well-known/security.txt');
m.verdict(secret === 404 && known === 200 && crash === 'EADDRINUSE' && !logged,
  `/.env ${secret}, /.well-known/security.txt ${known}; port taken: ${crash || `logged "${logged}"`}`);
