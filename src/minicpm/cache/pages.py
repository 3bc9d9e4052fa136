"""Which pages are free, and how many sequences share each used one."""

import heapq

PAGE = 64  # tokens; equals the InfLLM-V2 selection block, so that selected blocks are pages


class PagePool:
    """Page numbers 0 .. total-1 with reference counts; used + free == total always."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._shares = [0] * total
        self._free = set(range(total))
        self._lowest = list(range(total))  # heap over free pages; may hold stale entries

    @property
    def free(self) -> int:
        """Pages nobody holds."""
        return len(self._free)

    def grow(self, total: int) -> None:
        """Number pages up to `total`, no fewer than before; the new ones are free."""
        new = range(self.total, total)
        self._shares += [0] * len(new)
        self._free |= set(new)
        self._lowest += new  # all above what the heap holds, so it stays one
        self.total = total

    def take(self, *, after: int | None = None) -> int:
        """A free page, the one following `after` if possible, so that sequences lie contiguously."""
        assert self._free, "take() needs a free page"
        page = after + 1 if after is not None and after + 1 in self._free else self._pop_lowest()
        self._free.discard(page)
        self._shares[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more holder of a used page."""
        assert self._shares[page] > 0, f"page {page} is free and cannot be shared"
        self._shares[page] += 1

    def drop(self, page: int) -> None:
        """One holder fewer; the last one frees the page."""
        assert self._shares[page] > 0, f"page {page} is free already"
        self._shares[page] -= 1
        if self._shares[page] == 0:
            self._free.add(page)
            heapq.heappush(self._lowest, page)
            self._forget_stale()

    def is_shared(self, page: int) -> bool:
        """True when more than one sequence holds the page."""
        return self._shares[page] > 1

    def _forget_stale(self) -> None:
        """Rebuild the heap once stale entries outnumber pages; a sorted list is a heap."""
        if len(self._lowest) > 2 * self.total:
            self._lowest = sorted(self._free)

    def _pop_lowest(self) -> int:
        while True:
            page = heapq.heappop(self._lowest)
            if page in self._free:
                return page
