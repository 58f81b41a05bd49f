"""`flexquant-chat`: a chat in the terminal."""
