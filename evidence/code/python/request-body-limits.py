class Storage:
    largest = 0

    async def write(self, chunk: bytes) -> None:
        Storage.largest = max(Storage.largest, len(chunk))


storage = Storage()
<<CELL>>
