"""Programs that `modelpack bench` runs in processes of their own, and the way it talks to them.

Each reads JSON objects from standard input, one a line, and answers each with one line. At the
end of its input a child ends too: nobody is left behind when the benchmark is killed.
"""
