import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import * as m from './measure.ts';

/*
<<CELL>>
*/
const { PGUSER, PGHOST, PGPORT, PGDATABASE } = process.env;
const test = `
const hold = Array.from({ length: 10 }, async () => { await prisma.$queryRaw\`SELECT 1 AS one FROM pg_sleep(4.5)\`; });
await new Promise((done) => setTimeout(done, 1_000));
const start = performance.now();
const eleventh = await prisma.$queryRaw\`SELECT 1 AS one\`.then(() => 'answered', () => 'refused');
const seconds = Math.round((performance.now() - start) / 1000);
await Promise.all(hold);
const endless = await prisma.$queryRaw\`SELECT 1 AS one FROM pg_sleep(9)\`.then(() => 'answered', () => 'cut off');
console.log(\`10 connections busy, the eleventh query is \${eleventh} after \${seconds} s; a query of 9 s is \${endless}\`);
process.exit(eleventh === 'refused' && seconds === 2 && endless === 'cut off' ? 0 : 1);
`;
const cell = readFileSync(import.meta.filename, 'utf8').split(/^\/\*$|^\*\/$/m)[1];
writeFileSync('prisma.cell.ts', cell + test);
const DATABASE_URL = `postgresql://${PGUSER}@${PGHOST}:${PGPORT}/${PGDATABASE}`;
const done = spawnSync(process.execPath, ['prisma.cell.ts'], { encoding: 'utf8', env: { ...process.env, DATABASE_URL } });
m.verdict(done.status === 0, done.stdout.trim() || `does not start: ${/^\w*Error.*|Cannot find module '[^']*'/m.exec(done.stderr)?.[0].slice(0, 120)}`);
