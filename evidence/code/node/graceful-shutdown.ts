import type { IncomingMessage, ServerResponse } from 'node:http';
<<CELL>>

declare const PORT: number;
declare function handle(req: IncomingMessage, res: ServerResponse): void;
declare const pool: import('pg').Pool;
