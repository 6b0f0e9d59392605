import * as m from './measure.ts';

const saveUser = async (user: unknown) => user;
<<CELL>>

const post = async (payload: object) => {
  const answer = await app.inject({ method: 'POST', url: '/users', payload });
  return `${answer.statusCode} ${answer.statusCode < 300 ? answer.body : ''}`.trim();
};
const [good, extra, nothing, number] = [await post({ name: 'Ann' }), await post({ name: 'Ann', isAdmin: true }),
  await post({ name: null }), await post({ name: 7 })];
m.verdict(good.startsWith('20') && [extra, nothing, number].every((it) => it === '400'),
  `right: ${good}; unknown field: ${extra}; null: ${nothing}; number: ${number}`);
