<<CELL>>


workers = [f"w{number}" for number in range(20)]
before = {f"t{number}": set(shard(f"t{number}", workers)) for number in range(1000)}
assert all(len(chosen) == 4 for chosen in before.values())
after = {tenant: set(shard(tenant, workers[:-1])) for tenant in before}
assert all(before[tenant] - after[tenant] <= {"w19"} for tenant in before)
print("shows a worker that goes away moves nobody else")
