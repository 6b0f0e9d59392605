import type { Job } from 'bullmq';
<<CELL>>

declare const redis: { host: string; port: number };
declare const userId: string;
declare const log: { error(fields: object, message: string): void };
declare function sendOnce(job: Job<{ userId: string }>): Promise<void>;
declare function renderSync(data: unknown): Buffer;
declare function send(pdf: Buffer): Promise<void>;
