// The recipe node-http-client; here it sends by undici's own request, since a URL would change paths such as /a/../b.
import { setTimeout as sleep } from 'node:timers/promises';
import { Pool } from 'undici';

const IDEMPOTENT = new Set(['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE']);
const DONE_NOTHING = new Set([429]);
const tryAgain = (status: number) => status === 429 || status >= 500;

const START = {
  deadline: 3_000, // ms for the call: line, all attempts, pauses and bodies
  attemptTimeout: 1_000, // ms for one attempt, to the last byte of its body
  attempts: 3,
  pause: 100, // ms before the first retry at most; doubles up to maxPause
  maxPause: 1_000,
  retryRatio: 0.1, // retries that each call pays in: load grows by no more than this in the long run
  retryBurst: 10, // and that many may come at once after quiet times
  running: 50, // attempts at the same time
  waiting: 100, // calls that stand in line for one
  maxBytes: 10_000_000, // of one body, as it lies in memory
};

export type Call = {
  method?: string;
  headers?: Record<string, string>;
  body?: string | Uint8Array<ArrayBuffer>; // no stream: it could be sent once only
  deadline?: number;
  signal?: AbortSignal; // that of the request which is being served
};
export type Answer = { status: number; headers: Record<string, any>; body: Buffer; attempts: number };

export class Overloaded extends Error {}
export class TooLarge extends Error {}

function retryAfter(headers?: Record<string, any>): number {
  const text = String(headers?.['retry-after'] ?? '');
  return Math.max(0, (/^\d+$/.test(text) ? Number(text) * 1000 : Date.parse(text) - Date.now()) || 0);
}

export class Client {
  #settings: typeof START;
  #pool: Pool;
  #budget: number;
  #running = 0;
  #line = new Set<() => void>(); // calls that wait for a place, the oldest first

  constructor(origin: string, settings: Partial<typeof START> = {}) {
    this.#pool = new Pool(origin);
    this.#settings = { ...START, ...settings };
    this.#budget = this.#settings.retryBurst;
  }

  async call(path: string, { method = 'GET', headers, body, deadline, signal }: Call = {}): Promise<Answer> {
    const { attemptTimeout, attempts, pause, maxPause, retryRatio, retryBurst } = this.#settings;
    const repeatable = IDEMPOTENT.has(method) || headers?.['idempotency-key'] !== undefined;
    const end = performance.now() + (deadline ?? this.#settings.deadline);
    const left = () => Math.max(0, Math.ceil(end - performance.now()));
    const over = AbortSignal.any([AbortSignal.timeout(left()), ...(signal ? [signal] : [])]);
    this.#budget = Math.min(retryBurst, this.#budget + retryRatio);
    for (let attempt = 1; ; attempt++) {
      let answer: Answer | undefined;
      let failure: any;
      await this.#enter(over).catch((error) => {
        over.throwIfAborted();
        throw attempt === 1 ? error : new Error('no place for another attempt', { cause: error });
      });
      try {
        answer = { ...(await this.#attempt(path, method, headers, body, over)), attempts: attempt };
        if (!tryAgain(answer.status)) return answer;
      } catch (error) {
        over.throwIfAborted(); // TimeoutError at the deadline, or the reason that the caller gave
        failure = error;
      } finally {
        this.#leave();
      }
      // A failure of the network carries a code; a wrong header or a body too large is the same next time.
      const transient = answer || failure.name === 'TimeoutError' || failure.code;
      const harmless = repeatable || failure?.code === 'ECONNREFUSED' || DONE_NOTHING.has(answer?.status ?? 0);
      const wait = retryAfter(answer?.headers) + Math.random() * Math.min(maxPause, pause * 2 ** (attempt - 1));
      if (!transient || !harmless || attempt >= attempts || wait >= left() || this.#budget < 1) {
        if (answer) return answer;
        throw new Error(`${method}: attempt ${attempt} failed`, { cause: failure });
      }
      this.#budget -= 1;
      await sleep(wait, undefined, { signal: over }).catch(() => over.throwIfAborted());
    }
  }

  async #attempt(path: string, method: any, head: Call['headers'], sent: Call['body'], over: AbortSignal) {
    const signal = AbortSignal.any([over, AbortSignal.timeout(this.#settings.attemptTimeout)]);
    const answer = await this.#pool.request({ path, method, headers: head, body: sent, signal });
    const { statusCode: status, headers, body } = answer;
    const chunks: Uint8Array[] = [];
    let size = 0;
    // Every body is read to its end: that frees the connection for the next call, and a body that breaks off is seen
    // while another attempt is still possible. The throw cancels the stream, which closes the connection.
    for await (const chunk of body) {
      if ((size += chunk.length) > this.#settings.maxBytes) throw new TooLarge(`body of ${size} bytes and more`);
      chunks.push(chunk);
    }
    return { status, headers, body: Buffer.concat(chunks) };
  }

  async #enter(over: AbortSignal): Promise<void> {
    over.throwIfAborted();
    if (this.#running < this.#settings.running) return void this.#running++;
    if (this.#line.size >= this.#settings.waiting) throw new Overloaded('too many calls wait for this service');
    await new Promise<void>((resolve, reject) => {
      const give = () => {
        over.removeEventListener('abort', leave);
        resolve();
      };
      const leave = () => {
        this.#line.delete(give);
        reject(over.reason);
      };
      this.#line.add(give);
      over.addEventListener('abort', leave, { once: true });
    });
  }

  #leave(): void {
    const [next] = this.#line;
    if (!next) return void this.#running--;
    this.#line.delete(next); // the place goes to it, so that running stays as it is
    next();
  }
}
