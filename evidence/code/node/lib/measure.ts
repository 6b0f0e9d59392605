// What the programs share. They import it under one name, so that a cell's own names stay free.
import { spawn } from 'node:child_process';
import { writeSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';

export const sleep = (ms: number) => pause(ms);

const exit = process.exit.bind(process); // some programs put their own in its place

export function verdict(fine: boolean, saw: string): never {
  writeSync(1, `${saw}\n`);
  return exit(fine ? 0 : 1);
}

// What became of a promise within so many milliseconds: 'late', its value as text, or its error's name and message.
export async function outcome(promise: Promise<unknown>, ms: number): Promise<string> {
  const value = promise.then((it) => JSON.stringify(it) ?? 'undefined', (error) => `${error?.name}: ${error?.message}`);
  return Promise.race([value, pause(ms, 'late', { ref: false })]);
}

export async function serve(handle: RequestListener): Promise<string> {
  const server = createServer(handle).listen(0, '127.0.0.1');
  await new Promise((done) => server.once('listening', done));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((done) => server.once('listening', done));
  const { port } = server.address() as AddressInfo;
  await new Promise((done) => server.close(done));
  return port;
}

// The same program again with variables set; `AGAIN` is one of them. Its exit status is null when it had to be killed.
export async function again(variables: Record<string, string>, ms = 15_000) {
  const child = spawn(process.execPath, process.argv.slice(1), { env: { ...process.env, AGAIN: '1', ...variables } });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { output += data; });
  const timer = setTimeout(() => child.kill('SIGKILL'), ms);
  const status = await new Promise<number | null>((done) => child.on('close', done));
  clearTimeout(timer);
  return { status, output };
}
