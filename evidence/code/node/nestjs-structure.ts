import 'reflect-metadata';
import { Controller, Get, Inject as Wanted, forwardRef } from '@nestjs/common';
import type { Request } from 'express';

@Controller('orders')
class OrdersController {
  constructor(@Wanted(forwardRef(() => OrdersService)) readonly orders: { list(): object }) {}
  @Get() list() { return this.orders.list(); }
}
<<CELL>>

declare const PORT: number;
declare function tenantOf(req: Request): string;
declare function findOrders(tenant: string | undefined): object;
declare const AppModule: new () => object;
export { OrdersController };
