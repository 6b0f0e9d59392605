import * as m from './measure.ts';

const queue: (() => void)[] = [];
<<CELL>>

const seen: string[] = [];
const request = (id: string, work: () => void) => withContext({ get: () => id } as any, {} as any, work);
request('A', () => enqueue(() => seen.push(context.getStore()?.requestId ?? 'nothing')));
request('B', () => queue.splice(0).forEach((job) => job())); // request B happens to drain the queue
const after = context.getStore()?.requestId ?? 'nothing';
m.verdict(seen[0] === 'A' && after === 'nothing', `job of request A saw ${seen[0]}; after both requests the store holds ${after}`);
