"""Read chats from elsewhere into the log: exports of other programs, data sets, chats among people.

`files` and `records` read the layout of a file, and know nothing of chats. Each format is a small
module that turns records into `chats`. `table` lists the formats and recognises that of a file.
`importing` logs what they read.
"""
