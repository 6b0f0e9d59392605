import pg from 'pg';
import * as m from './measure.ts';

// PGHOST, PGPORT, PGUSER and PGDATABASE name the server
const admin = new pg.Client();
await admin.connect();
await admin.query('CREATE TABLE account (id text PRIMARY KEY, cents bigint CHECK (cents >= 0))');
await admin.query("INSERT INTO account VALUES ('a', 100), ('b', 0)");
let crash = '';
process.on('uncaughtException', (error) => { crash = error.message; });
console.error = () => {};
<<CELL>>

// A transfer that fails between its two halves, then one that succeeds.
await inTransaction(async (db: any) => {
  await db.query("UPDATE account SET cents = cents + 100 WHERE id = 'b'");
  throw new Error('refused by the fraud check');
}).catch(() => {});
await inTransaction(async (db: any) => {
  await db.query("UPDATE account SET cents = cents - 40 WHERE id = 'a'");
  await db.query("UPDATE account SET cents = cents + 40 WHERE id = 'b'");
});
const cents = Number((await admin.query('SELECT sum(cents) FROM account')).rows[0].sum);
await Promise.all([1, 2, 3].map(() => inTransaction(async (db: any) => db.query('SELECT pg_sleep(0.1)'))));
// The server ends all connections, while one of them runs a query and others are idle.
const query = inTransaction(async (db: any) => db.query('SELECT pg_sleep(3)'));
const lost = m.outcome(query, 6_000);
await m.sleep(500);
await admin.query('SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()');
const failed = await lost;
await m.sleep(300);
const after = await m.outcome(inTransaction(async (db: any) => (await db.query('SELECT 1 AS one')).rows[0].one), 3_000);
m.verdict(cents === 100 && !crash && failed.startsWith('error') && after === '1',
  `after a transfer that failed half-way the accounts hold ${cents} of 100 cents; connections ended by the server: ${crash ? `uncaught "${crash}"` : `rejected, then ${after}`}`);
