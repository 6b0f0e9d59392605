// The recipe node-graceful-shutdown; here the status is 0 also when requests were cut off, and further signals count for nothing.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { Server as NetServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const ms = (name: string, seconds: number) => Number(process.env[name] ?? seconds) * 1000;
const DELAY = ms('LB_SECONDS', 10); // until every balancer has seen that /ready fails
const DRAIN = ms('DRAIN_SECONDS', 30); // for requests in flight
const CLOSE = ms('STOP_CLOSE', 0.5); // for pools and consumers
const FATAL = ms('STOP_FATAL', 2); // for everything after an uncaught exception

const JSON_TYPE = { 'Content-Type': 'application/json' };

// `stopping` fires when no more requests are taken: event streams and long polls end on it.
type Handler = (req: IncomingMessage, res: ServerResponse, stopping: AbortSignal) => unknown;

export function serve(handle: Handler, closeResources: () => Promise<unknown>, port: number, host?: string) {
  const sockets = new Set<Socket>();
  const answers = new Set<ServerResponse>(); // not sent yet
  const work = new Set<Promise<void>>(); // handlers that run, also those whose client has left
  const stopping = new AbortController();
  let draining = false;

  // A client that reads this opens its next connection elsewhere, and none is closed under a request on its way.
  const last = (res: ServerResponse) => res.headersSent || res.setHeader('Connection', 'close');

  async function answer(req: IncomingMessage, res: ServerResponse) {
    answers.add(res.on('close', () => answers.delete(res)));
    if (draining) last(res);
    try {
      if (req.url === '/ready') res.writeHead(draining ? 503 : 200, JSON_TYPE).end(`{"ready": ${!draining}}`);
      else if (req.url === '/healthz') res.writeHead(200, JSON_TYPE).end('{"status": "ok"}'); // never fails in a shutdown: that would be a kill
      else await handle(req, res, stopping.signal);
    } catch (error) {
      console.error('request failed:', error);
      if (res.headersSent) return void res.destroy(); // the client must not take half an answer for a whole one
      for (const name of res.getHeaderNames()) res.removeHeader(name); // the length and lifetime of another answer
      res.writeHead(500, { Connection: 'close' }).end(); // nobody may read the rest of the request's body
    }
  }

  const timeouts = { requestTimeout: 0, headersTimeout: 10_000, keepAliveTimeout: 65_000 };
  const server = createServer(timeouts, (req, res) => {
    const running = answer(req, res).finally(() => work.delete(running));
    work.add(running);
  });
  server.on('connection', (socket: Socket) => sockets.add(socket.on('close', () => sockets.delete(socket))));

  async function stop(why: string, delay: number, drain: number) {
    console.error(`${why}: stopping, ${answers.size} requests in flight`);
    draining = true;
    for (const res of answers) last(res);
    await sleep(delay);
    // Node counts a connection as idle once its answer is handed over, and cuts what a slow client has not read yet.
    const closeIdle = () => [...answers].some((res) => res.writableEnded) || server.closeIdleConnections();
    const closed = new Promise((resolve) => NetServer.prototype.close.call(server, resolve)); // node:http's does it
    closeIdle();
    stopping.abort();
    // Up to Node 24 that leaves connections on which nothing came yet.
    for (const socket of sockets) if (socket.bytesRead === 0) socket.destroy();
    // An answer that began before with keep-alive leaves its connection idle.
    const sweep = setInterval(closeIdle, 100);
    const done = closed.then(() => Promise.allSettled(work));
    if ((await Promise.race([done, sleep(drain, 'late')])) === 'late') console.error(`${answers.size} requests cut off`);
    for (const socket of sockets) socket.destroy(); // upgraded ones too, which closeAllConnections() leaves
    clearInterval(sweep);
    const resources = closeResources().catch((error) => fail(`closing resources: ${error}`));
    if ((await Promise.race([resources, sleep(CLOSE, 'late')])) === 'late') fail('closing resources takes too long');
    process.exit(); // with exitCode; whatever is still there, timers above all, must not hold it up
  }

  const fail = (why: string) => {
    console.error(why);
    process.exitCode = 1;
  };

  process.on('SIGTERM', () => {
    if (!draining) void stop('SIGTERM', DELAY, DRAIN);
  });

  // Also for rejections that nobody handles. The state may be broken: no delay, a short end, never a plain return.
  process.on('uncaughtException', (error) => {
    fail(`uncaught: ${error instanceof Error ? error.stack : error}`);
    setTimeout(() => process.exit(), FATAL);
    if (!draining) void stop('uncaught exception', 0, FATAL);
  });

  return server.listen(port, host);
}
