import { randomBytes as salt } from 'node:crypto';
import * as m from './measure.ts';
<<CELL>>

let turns = 0;
const tick = () => setImmediate(() => { turns++; tick(); }).unref();
tick();
await m.sleep(50);
turns = 0;
await Promise.all(Array.from({ length: 8 }, () => hash('a password', salt(16))));
m.verdict(turns > 8, `turns of the event loop during 8 hashes: ${turns > 8 ? 'more than 8' : turns}`);
