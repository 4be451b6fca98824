"""Read chats from elsewhere into the log: exports of other programs, data sets, and chats among people.

`files` and `records` read the layout of a file, and know nothing about chats. Each format is a
small module that turns records into `chats`. `table` lists the formats, and recognises the format
of a file. `importing` writes the chats to the log.
"""
