"""What is right and wrong with a node: facts are gathered, then judged.

Each module looks at one part of the node. Its ``gather`` does the I/O, bounded in
time, and returns facts that are plain data; its ``judge`` is pure and turns them into
findings. Nothing here changes the node.
"""
