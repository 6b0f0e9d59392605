import { createServer, type Server } from 'node:http';

export async function start(): Promise<Server> {
  return createServer();
}
