"""What the package puts in this module's place, for checkers of types."""

from multiprocessing.dummy.connection import (
    Client as Client,
    Connection as Connection,
    Listener as Listener,
    Pipe as Pipe,
    families as families,
)
