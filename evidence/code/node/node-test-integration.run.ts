import * as m from './measure.ts';

const { PGUSER, PGHOST, PGPORT, PGDATABASE } = process.env;
process.env.TEST_DB = `postgresql://${PGUSER}@${PGHOST}:${PGPORT}/${PGDATABASE}`;
process.stdout.write = (() => true) as typeof process.stdout.write; // node:test reports there
const table = 'CREATE TABLE orders (id serial PRIMARY KEY, key text UNIQUE)';
const migrate = (db: pg.Pool) => db.query(table);
const placeOrder = async (db: pg.Pool, key: string): Promise<number> => (await db.query(
  'INSERT INTO orders (key) VALUES ($1) ON CONFLICT (key) DO UPDATE SET key = excluded.key RETURNING id', [key])).rows[0].id;
const admin = async (...statements: string[]) => {
  const client = new pg.Client(process.env.TEST_DB);
  await client.connect();
  let last;
  for (const statement of statements) last = (await client.query(statement)).rows[0];
  await client.end();
  return last;
};
await admin(table, "INSERT INTO orders (key) VALUES ('of another test file')");
<<CELL>>

const judge = async (ended: boolean) => {
  const { rows, schemas } = await admin("SELECT (SELECT count(*)::int FROM public.orders WHERE key LIKE 'of%') AS rows, " +
    "(SELECT count(*)::int FROM pg_namespace WHERE nspname LIKE 't\\_%') AS schemas");
  const passed = !process.exitCode;
  m.verdict(rows === 1 && schemas === 0 && ended && passed, `tests ${passed ? 'passed' : 'failed'}, ` +
    `rows of another test file ${rows ? 'untouched' : 'gone'}, ${schemas} schemas left, the run ${ended ? 'ended' : 'hangs 5 s later'}`);
};
const timer = setTimeout(() => judge(false), 5_000).unref();
process.once('beforeExit', () => { clearTimeout(timer); judge(true); });
