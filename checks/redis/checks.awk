# Every check of a Redis or Valkey server, from what it says of itself; nothing is written.
#   { redis-cli INFO everything; redis-cli CONFIG GET '*' | paste -d= - -; } | awk -f checks/redis/checks.awk
# A line for each finding: the row that says what to do (search.py --show REF), the object, the finding, its evidence.
# No line: nothing found. Where CONFIG is forbidden (managed servers) the checks that need it are silent.

function find(ref, object, finding, evidence) {
    print ref " | " object " | " finding " | " evidence
}
function number(name) { return info[name] + 0 }  # what awk cut out of a line is text until it is counted with
function chosen(name) { return config[name] + 0 }
function has(name) { return name in info }
function set(name) { return name in config }
function megabytes(bytes) { return sprintf("%.0f MB", bytes / 1048576) }

{ sub(/\r$/, "") }
/^#/ || /^$/ { next }
/^db[0-9]+:/ {
    split($0, parts, /[:=,]/)
    keys += parts[3]; expires += parts[5]
}
/^cmdstat_/ {
    split($0, parts, /[:=,]/)
    calls[substr(parts[1], 9)] = parts[3]
    next
}
match($0, /^[a-z0-9_.-]+=/) { config[substr($0, 1, RLENGTH - 1)] = substr($0, RLENGTH + 1); next }
match($0, /^[a-zA-Z0-9_.-]+:/) { info[substr($0, 1, RLENGTH - 1)] = substr($0, RLENGTH + 1) }

END {
    if (!has("redis_version")) {
        print "checks.awk: no INFO in what was piped in: expected the output of redis-cli INFO everything" > "/dev/stderr"
        exit 2
    }
    limit = number("maxmemory"); policy = info["maxmemory_policy"]; replicas = number("connected_slaves")
    split(info["redis_version"], version, ".")

    if (limit == 0)
        find("caching/eviction-policies", "maxmemory", "no limit: memory grows until the kernel kills the server",
             "maxmemory 0, used " megabytes(info["used_memory"]))
    if (limit > 0 && policy == "noeviction" && number("used_memory") > 0.9 * limit)
        find("caching/eviction-policies", "maxmemory-policy", "nothing is evicted and writes are about to fail with OOM",
             "used " megabytes(info["used_memory"]) " of " megabytes(limit))
    if (policy ~ /^volatile-/ && keys > 1000 && expires < 0.01 * keys)
        find("caching/eviction-policies", "maxmemory-policy", policy " evicts keys with an expiry only, and there are hardly any",
             expires " of " keys " keys expire")
    if (limit > 0 && has("total_system_memory") && limit > 0.8 * number("total_system_memory"))
        find("caching/redis-memory-sizing", "maxmemory", "leaves no room for a fork, buffers and fragmentation",
             megabytes(limit) " of " megabytes(info["total_system_memory"]))
    if (number("mem_fragmentation_ratio") > 1.5 && number("used_memory") > 104857600)
        find("caching/redis-memory-sizing", "memory", "fragmentation: set activedefrag yes, or restart a replica and fail over",
             "mem_fragmentation_ratio " info["mem_fragmentation_ratio"])
    if (number("latest_fork_usec") > 500000)
        find("caching/redis-memory-sizing", "fork", "the last fork stopped the server for longer than half a second",
             "latest_fork_usec " info["latest_fork_usec"])
    if (info["rdb_last_bgsave_status"] == "err" || info["aof_last_write_status"] == "err" || \
        info["aof_last_bgrewrite_status"] == "err")
        find("caching/redis-persistence", "persistence", "the last save failed; with stop-writes-on-bgsave-error writes fail too",
             "rdb " info["rdb_last_bgsave_status"] ", aof " info["aof_last_write_status"])
    if (set("save") && config["save"] == "" && number("aof_enabled") == 0 && replicas > 0)
        find("caching/redis-failover-loss", "persistence",
             "nothing is kept on disk: a restart comes back empty and empties the replicas too", replicas " replicas")
    if (set("min-replicas-to-write") && chosen("min-replicas-to-write") == 0 && replicas > 0)
        find("caching/redis-failover-loss", "min-replicas-to-write",
             "a primary that is cut off goes on acknowledging writes that the failover throws away",
             "min-replicas-to-write 0, " replicas " replicas")
    if (info["role"] == "slave" && info["master_link_status"] == "down")
        find("caching/redis-failover-loss", "replication", "this replica has no connection to its primary and serves old data",
             info["master_host"] ":" info["master_port"] ", down for " info["master_link_down_since_seconds"] " s")
    if (set("protected-mode") && config["protected-mode"] == "no" && config["requirepass"] == "" && \
        (config["bind"] == "" || config["bind"] ~ /(^| )-?(\*|0\.0\.0\.0|::)( |$)/))
        find("caching/redis-exposed-to-network", "bind", "listens on all addresses without a password for the default user",
             "protected-mode no, bind " config["bind"])
    if (set("maxclients") && number("connected_clients") > 0.8 * chosen("maxclients"))
        find("caching/connection-storm", "maxclients", "more than four fifths of the connections are taken",
             info["connected_clients"] " of " config["maxclients"])
    if (number("rejected_connections") > 0)
        find("caching/connection-storm", "maxclients", "clients were turned away since the start",
             "rejected_connections " info["rejected_connections"])
    if (set("timeout") && chosen("timeout") == 0 && chosen("tcp-keepalive") == 0)
        find("caching/connection-storm", "tcp-keepalive", "connections of clients that vanished are never closed",
             "timeout 0, tcp-keepalive 0")
    if (set("slowlog-log-slower-than") && chosen("slowlog-log-slower-than") < 0)
        find("caching/redis-slow-commands", "slowlog-log-slower-than", "slow commands are not recorded",
             "slowlog-log-slower-than " config["slowlog-log-slower-than"])
    if (calls["keys"] + 0 > 0)
        find("caching/redis-slow-commands", "KEYS", "somebody walks over all keys while everybody else waits: SCAN",
             calls["keys"] " calls, " keys + 0 " keys")
    if (info["server_name"] != "valkey" && (version[1] + 0 < 7 || (version[1] + 0 == 7 && version[2] + 0 < 2)))
        find("caching/redis-release-lines", "version", "this line of releases gets no fixes any more",
             "redis_version " info["redis_version"])
}
