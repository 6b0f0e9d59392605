// Webhook receiver (Standard Webhooks): verify the raw bytes, store them, answer, and only then work.
// Run: DATABASE_URL=postgresql://... WEBHOOK_SECRETS="whsec_<new> whsec_<old>" node receiver.ts   (tables: inbox.sql)
import { createHmac, timingSafeEqual } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from 'node:http';
import { Pool, type PoolClient } from 'pg';

const setting = (name: string, start: number) => Number(process.env[name] ?? start);
const MAX_BODY = setting('MAX_BODY', 262_144); // bytes
const TOLERANCE = setting('TOLERANCE', 300); // seconds between the sender's clock and ours
const REQUEST_TIMEOUT = setting('REQUEST_TIMEOUT', 10) * 1000; // for head and body together
const DB_TIMEOUT = setting('DB_TIMEOUT', 5) * 1000;
const MAX_ATTEMPTS = setting('MAX_ATTEMPTS', 10);
const BACKOFF = setting('BACKOFF', 1); // seconds before the second attempt; doubles up to an hour
const POLL = setting('POLL', 1) * 1000; // for what other replicas stored and for attempts that are due

// HMAC takes an empty key, which anybody has, and Buffer.from skips what is no base64: neither may pass in silence.
const SECRETS = (process.env.WEBHOOK_SECRETS ?? '').split(/\s+/).filter(Boolean).map((secret, place) => {
  const text = secret.replace(/^whsec_/, '').replace(/=+$/, '');
  const key = Buffer.from(text, 'base64');
  if (key.length < 24 || key.toString('base64').replace(/=+$/, '') !== text)
    throw new Error(`WEBHOOK_SECRETS: number ${place + 1} is not base64 of at least 24 bytes`);
  return key;
});
if (SECRETS.length === 0) throw new Error('WEBHOOK_SECRETS is empty');

const pool = new Pool({
  connectionString: process.env.DATABASE_URL,
  max: 10,
  connectionTimeoutMillis: DB_TIMEOUT,
  statement_timeout: DB_TIMEOUT,
  query_timeout: DB_TIMEOUT + 500, // when nothing answers at all: the server's own timeout comes first
});
// Unheard, the loss of a connection ends the process: of an idle one here, of one that the worker has taken below.
pool.on('error', (error) => console.error('idle connection lost:', error.message));
pool.on('connect', (client) => client.on('error', () => {})); // its query fails too, and says why
const inbox = new EventEmitter();
let stopping = false;

const refused = (status: number, why: string) => Object.assign(new Error(why), { status });

function read(req: IncomingMessage): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    const tooLarge = (bytes: number) => bytes > MAX_BODY && (reject(refused(413, 'body too large')), true);
    if (tooLarge(Number(req.headers['content-length'] ?? 0))) return;
    req.on('data', (chunk: Buffer) => tooLarge((size += chunk.length)) || chunks.push(chunk));
    req.on('end', () => resolve(Buffer.concat(chunks)));
    req.on('error', () => reject(refused(400, 'body cut off'))); // hung up, or REQUEST_TIMEOUT, which Node answers
  });
}

function verify(headers: IncomingHttpHeaders, body: Buffer): string {
  const header = (name: string) => String(headers[`webhook-${name}`] ?? '');
  const id = header('id'), at = header('timestamp');
  if (!/^[\w:-]{1,200}$/.test(id) || !/^\d{1,12}$/.test(at)) throw refused(401, 'no id or timestamp');
  if (Math.abs(Date.now() / 1000 - Number(at)) > TOLERANCE) throw refused(401, `timestamp ${at} is out of tolerance`);
  const given = header('signature').match(/(?<=^v1,| v1,)[^ ]+/g)?.map((text) => Buffer.from(text, 'base64')) ?? [];
  const genuine = SECRETS.some((secret) => {
    const wanted = createHmac('sha256', secret).update(`${id}.${at}.`).update(body).digest();
    return given.some((mac) => mac.length === wanted.length && timingSafeEqual(mac, wanted)); // throws on other lengths
  });
  if (!genuine) throw refused(401, 'no signature matches');
  return id;
}

async function handle(req: IncomingMessage, res: ServerResponse) {
  let status = 200;
  try {
    if (req.method !== 'POST' || req.url !== '/webhooks') throw refused(404, 'not found');
    const body = await read(req);
    const id = verify(req.headers, body);
    await pool.query('INSERT INTO inbox (event_id, body) VALUES ($1, $2) ON CONFLICT DO NOTHING', [id, body]);
    inbox.emit('work');
  } catch (error: any) {
    status = error.status ?? 503; // stored or not: the sender tries again, and the key decides
    console.error('not accepted:', status, error.message || error.code);
  }
  if (status === 503) res.setHeader('Retry-After', '5');
  if (status !== 200 || stopping) res.setHeader('Connection', 'close'); // the rest of a body may still be coming
  res.writeHead(status).end();
}

const CHANGES = new Map([
  ['payment.succeeded', { to: 'paid', from: ['pending', 'failed'] }],
  ['payment.failed', { to: 'failed', from: ['pending'] }], // late or out of order, it takes no payment back
]);

// Put your work here, on this client only: it commits together with the mark in the inbox. A throw means: try again.
async function apply(client: PoolClient, body: Buffer): Promise<[state: string, note: string]> {
  let event: any; // a signature says who sent it, not that it fits the order
  try { event = JSON.parse(body.toString()); } catch { return ['rejected', 'not JSON']; }
  const change = CHANGES.get(event?.type);
  if (!change) return ['ignored', `type ${event?.type}`];
  const { order, amount, currency } = event.data ?? {};
  if (typeof order !== 'string' || !Number.isSafeInteger(amount)) return ['rejected', 'no order or amount'];
  const found = await client.query('SELECT amount, currency, state FROM orders WHERE id = $1 FOR UPDATE', [order]);
  const row = found.rows[0];
  if (!row) throw new Error(`no order ${order}`); // it may commit after the provider has called
  if (Number(row.amount) !== amount || row.currency !== currency)
    return ['rejected', `event ${amount} ${currency}, order ${row.amount} ${row.currency}`];
  if (!change.from.includes(row.state)) return ['ignored', `order is ${row.state}`];
  await client.query('UPDATE orders SET state = $2 WHERE id = $1', [order, change.to]);
  return ['done', ''];
}

const DUE = `SELECT event_id AS id, body, attempts + 1 AS attempt FROM inbox
  WHERE state = 'new' AND run_at <= now() ORDER BY run_at LIMIT 1 FOR UPDATE SKIP LOCKED`;
const MARK = `UPDATE inbox SET state = $2, note = $3, attempts = $4, run_at = now() + $5 * interval '1 second'
  WHERE event_id = $1`;

async function workOne(): Promise<boolean> {
  const client = await pool.connect();
  let broken: any;
  try {
    await client.query('BEGIN');
    const event = (await client.query(DUE)).rows[0];
    if (event) {
      await client.query('SAVEPOINT effect');
      const [state, note] = await apply(client, event.body).catch(async (error: Error) => {
        console.error(`event ${event.id}, attempt ${event.attempt}:`, error.message);
        await client.query('ROLLBACK TO effect');
        return [event.attempt < MAX_ATTEMPTS ? 'new' : 'failed', error.message] as const;
      });
      const pause = Math.min(3600, BACKOFF * 2 ** (event.attempt - 1));
      const text = String(note).replaceAll('\0', '').slice(0, 500); // PostgreSQL takes no NUL: the mark would fail for ever
      await client.query(MARK, [event.id, state, text, event.attempt, pause]);
    }
    await client.query('COMMIT');
    return Boolean(event);
  } catch (error) {
    broken = error; // closing the connection rolls back, also when the server does not answer
    throw error;
  } finally {
    client.release(broken);
  }
}

async function work() {
  while (!stopping) {
    const more = await workOne().catch((error: Error) => console.error('worker:', error.message));
    if (!more && !stopping) await once(inbox, 'work', { signal: AbortSignal.timeout(POLL) }).catch(() => {});
  }
}

const timeouts = { requestTimeout: REQUEST_TIMEOUT, headersTimeout: REQUEST_TIMEOUT, connectionsCheckingInterval: 500 };
const server = createServer({ ...timeouts, keepAliveTimeout: 65_000 }, handle);
server.listen(setting('PORT', 8080), process.env.HOST);
server.maxConnections = setting('MAX_CONNECTIONS', 500); // times MAX_BODY is the memory that strangers can take
const working = work();

process.once('SIGTERM', async () => {
  stopping = true;
  setTimeout(() => process.exit(1), setting('DRAIN', 10) * 1000).unref();
  inbox.emit('work');
  await Promise.all([working, new Promise((closed) => server.close(closed))]);
  await pool.end();
});
