"""The ground floor: files, processes, progress and signals. It imports nothing of vidbench."""
