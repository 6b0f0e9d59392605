import { Broker } from './broker.ts';
import * as m from './measure.ts';

const broker = new Broker();
let handled = 0, crash = '', lost = 0;
await broker.start((consumer, socket, send) => setTimeout(() => {
  if (consumer <= 2) lost += broker.acknowledged > handled ? 1 : 0;
  if (consumer === 1) socket.resetAndDestroy(); // the broker dies while a message is being handled
  if (consumer === 2) send('ChannelClose', { replyCode: 406, replyText: 'delivery timeout', classId: 0, methodId: 0 });
  if (consumer === 3) send('BasicCancel', { consumerTag: 'c', nowait: true }); // the queue's leader moves
}, 200));
process.env.AMQP_URL = broker.url;
process.on('uncaughtException', (error) => { crash ||= error.message; });
console.error = () => {};
const handle = async (_content: Buffer) => { await m.sleep(400); handled++; };
<<CELL>>

await m.sleep(4_000);
m.verdict(!crash && broker.consumers === 4 && lost === 0 && broker.acknowledged >= 1,
  `reset, closed channel, cancelled consumer: ${broker.consumers} of 4 times consuming, ${lost ? 'acknowledged before' : 'acknowledged after'} the work, ` +
  (crash ? `uncaught "${crash}"` : 'nothing uncaught'));
