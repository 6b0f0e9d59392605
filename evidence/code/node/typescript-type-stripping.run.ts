import { readFileSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import * as m from './measure.ts';

/*
<<CELL>>
*/
const cell = readFileSync(import.meta.filename, 'utf8').split(/^\/\*$|^\*\/$/m)[1];
writeFileSync('main.stripped.ts', cell!);
const done = spawnSync(process.execPath, ['main.stripped.ts'], { encoding: 'utf8' });
const code = /ERR_\w+/.exec(done.stderr)?.[0] ?? '';
m.verdict(done.status === 0 && !done.stderr, `node main.ts ended with ${done.status} ${code}`.trim());
