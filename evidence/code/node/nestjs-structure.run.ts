import 'reflect-metadata';
import { Body, Controller, Get, Inject as Wanted, Post, forwardRef, type DynamicModule } from '@nestjs/common';
import { IsString } from 'class-validator';
import { writeSync } from 'node:fs';

const PORT = 0;
const tenantOf = (req: any) => req.headers['x-tenant'];
const findOrders = (tenant: string | undefined) => ({ tenant });
const services = new Set<unknown>();
class Order {
  @IsString() sku!: string;
}
@Controller('orders')
class OrdersController {
  constructor(@Wanted(forwardRef(() => OrdersService)) readonly orders: { list(): object }) { services.add(orders); }
  @Get() async list() { await new Promise((done) => setTimeout(done, 20)); return this.orders.list(); }
  @Post() create(@Body() order: Order) { return order; }
}
const AppModule: DynamicModule = {
  module: class Root {}, get providers() { return [OrdersService]; }, get controllers() { return [OrdersController]; },
};
process.stdout.write = (() => true) as typeof process.stdout.write;
<<CELL>>

const url = `${(await app.getUrl()).replace('[::1]', '127.0.0.1')}/orders`;
const lists = await Promise.all(Array.from({ length: 10 }, async (_, n) =>
  (await (await fetch(url, { headers: { 'x-tenant': `t${n}` } })).json() as { tenant: string }).tenant === `t${n}`));
const body = JSON.stringify({ sku: 'a', isAdmin: true });
const { status } = await fetch(url, { method: 'POST', body, headers: { 'content-type': 'application/json' } });
const right = lists.filter(Boolean).length;
writeSync(1, `10 requests at once: ${right} saw their tenant, ${services.size} services made; an unknown field: ${status}\n`);
process.exit(right === 10 && services.size === 1 && status === 400 ? 0 : 1);
