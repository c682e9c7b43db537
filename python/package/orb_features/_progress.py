"""A bar of tqdm for jobs that run."""


def bar():
    """A function that shows how far a job is, by tqdm; one that shows nothing where tqdm is not installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return lambda images, failed, rows: None
    return _Bar(tqdm(unit=" images"))


class _Bar:
    def __init__(self, shown):
        self._shown = shown

    def __call__(self, images, failed, rows):
        self._shown.update(images - self._shown.n)
        self._shown.set_postfix(rows=rows, failed=failed, refresh=False)

    def close(self):
        self._shown.close()
