// Package lines serves requests by lines on stdin and answers by lines on stdout, in the protocol of
// tests/java/lines/Lines.java: what the drivers of both Go clients have in common.
package lines

import (
	"bufio"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
)

var (
	out    sync.Mutex
	writer = bufio.NewWriter(os.Stdout)
)

// Row is one line of an answer, or one message: names and values.
type Row []string

// Put adds a value.
func (r Row) Put(key string, value any) Row {
	return append(r, url.QueryEscape(key)+"="+url.QueryEscape(fmt.Sprint(value)))
}

func (r Row) String() string { return strings.Join(r, "&") }

// Line prints one line.
func Line(format string, args ...any) {
	out.Lock()
	defer out.Unlock()
	fmt.Fprintf(writer, format+"\n", args...)
	writer.Flush()
}

// Get is a parameter, or what stands for it.
func Get(args url.Values, key, otherwise string) string {
	if args.Has(key) {
		return args.Get(key)
	}
	return otherwise
}

// Num is a parameter that is a number, or what stands for it.
func Num(args url.Values, key string, otherwise int) int {
	n, err := strconv.Atoi(Get(args, key, ""))
	if err != nil {
		return otherwise
	}
	return n
}

// Serve runs each request on a goroutine of its own until stdin ends.
func Serve(run func(verb string, args url.Values, answer func(Row)) error, failure func(Row, error) Row) {
	Line("ready")
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		text, err := in.ReadString('\n')
		if err != nil {
			os.Exit(0)
		}
		part := strings.SplitN(strings.TrimRight(text, "\n"), " ", 3)
		go func() {
			var err error
			args := url.Values{}
			if len(part) > 2 {
				args, err = url.ParseQuery(part[2])
			}
			if err == nil {
				err = run(part[1], args, func(r Row) { Line("%s row %s", part[0], r) })
			}
			if err != nil {
				Line("%s fail %s", part[0], failure(Row{}, err))
			} else {
				Line("%s done", part[0])
			}
		}()
	}
}
