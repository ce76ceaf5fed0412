@echo off
rem Sets everything up, and says what is likely to go wrong on this computer. See start.bat.
rem Without call: start.bat does not come back here, and its exit code counts.
"%~dp0start.bat" --install %*
