// A broker that speaks as much AMQP 0-9-1 as one consumer needs, by amqplib's own encoder. It delivers one message to
// every consumer and then calls `misbehave` with the number of that consumer, counted from 1.
import { createServer, type AddressInfo, type Socket } from 'node:net';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const load = createRequire(import.meta.url);
const defs = load(join(dirname(load.resolve('amqplib')), 'lib', 'defs.js'));

export class Broker {
  consumers = 0;
  acknowledged = 0;
  url = '';

  async start(misbehave: (consumer: number, socket: Socket, send: (name: string, fields: object) => void) => void) {
    const server = createServer((socket) => {
      let input: Buffer = Buffer.alloc(0);
      let greeted = false;
      socket.on('error', () => {});
      const say = (channel: number, name: string, fields: object) => {
        if (socket.writable) socket.write(defs.encodeMethod(defs[name], channel, fields));
      };
      const answers: Record<string, (channel: number) => void> = {
        ConnectionStartOk: () => say(0, 'ConnectionTune', { channelMax: 0, frameMax: 131_072, heartbeat: 0 }),
        ConnectionOpen: () => say(0, 'ConnectionOpenOk', {}),
        ConnectionClose: () => say(0, 'ConnectionCloseOk', {}),
        ChannelOpen: (channel) => say(channel, 'ChannelOpenOk', { channelId: Buffer.alloc(0) }),
        ChannelClose: (channel) => say(channel, 'ChannelCloseOk', {}),
        BasicQos: (channel) => say(channel, 'BasicQosOk', {}),
        BasicAck: () => { this.acknowledged++; },
        BasicConsume: (channel) => {
          const consumer = ++this.consumers;
          say(channel, 'BasicConsumeOk', { consumerTag: 'c' });
          say(channel, 'BasicDeliver', { consumerTag: 'c', deliveryTag: 1, redelivered: false, exchange: '', routingKey: 'orders' });
          const body = Buffer.from('order');
          socket.write(defs.encodeProperties(defs.BasicProperties, channel, body.length, {}));
          const frame = Buffer.concat([Buffer.alloc(7), body, Buffer.from([206])]);
          frame.writeUInt8(3, 0);
          frame.writeUInt16BE(channel, 1);
          frame.writeUInt32BE(body.length, 3);
          socket.write(frame);
          misbehave(consumer, socket, (name, fields) => say(channel, name, fields));
        },
      };
      socket.on('data', (data) => {
        input = Buffer.concat([input, data]);
        if (!greeted && input.length >= 8) {
          greeted = true;
          input = input.subarray(8);
          say(0, 'ConnectionStart', {
            versionMajor: 0, versionMinor: 9, serverProperties: {}, mechanisms: Buffer.from('PLAIN'), locales: Buffer.from('en_US'),
          });
        }
        while (input.length >= 7 && input.length >= 8 + input.readUInt32BE(3)) {
          const end = 8 + input.readUInt32BE(3);
          const [type, channel, id] = [input.readUInt8(0), input.readUInt16BE(1), end >= 12 ? input.readUInt32BE(7) : 0];
          if (type === 1) answers[defs.info(id).name]?.(channel);
          input = input.subarray(end);
        }
      });
    });
    server.listen(0, '127.0.0.1');
    await new Promise((done) => server.once('listening', done));
    this.url = `amqp://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }
}
