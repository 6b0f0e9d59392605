import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import * as m from './measure.ts';

const file = `${mkdtempSync(`${tmpdir()}/stream-`)}/export.bin`;
writeFileSync(file, randomBytes(20_000_000)); // does not compress
<<CELL>>

let caught = 0;
const url = new URL(await m.serve(async (_req, res) => {
  try { await (sendFile as any)(file, res, new AbortController().signal); } catch { caught++; }
}));
for (let n = 0; n < 5; n++) {
  const client = connect(Number(url.port), url.hostname);
  client.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
  await new Promise((done) => client.once('data', done));
  client.destroy(); // hangs up in the middle
}
await m.sleep(1_500);
const open = readdirSync('/proc/self/fd').filter((fd) => { try { return readlinkSync(`/proc/self/fd/${fd}`) === file; } catch { return false; } }).length;
const whole = (await (await fetch(url)).bytes()).length;
m.verdict(open === 0 && whole === 20_000_000, `5 clients hung up: ${open} files still open, ${caught} errors reported; a whole download has ${whole} bytes`);
