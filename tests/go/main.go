// Drives the official Go client by lines on stdin and answers by lines on stdout, in the protocol of
// tests/java/common/Driver.java: a part of its verbs, with the same parameters and rows.
package main

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"ferromq/contract/lines"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
)

var (
	lock      sync.Mutex
	producers = map[string]rocketmq.Producer{}
	consumers = map[string]rocketmq.PushConsumer{}
	pullers   = map[string]rocketmq.PullConsumer{}
)

func main() {
	rlog.SetLogLevel("error")
	lines.Serve(run, func(r lines.Row, err error) lines.Row { return r.Put("error", err) })
}

func find[T any](table map[string]T, name string) (T, error) {
	lock.Lock()
	defer lock.Unlock()
	found, ok := table[name]
	if !ok {
		return found, fmt.Errorf("nothing started is called %q", name)
	}
	return found, nil
}

// byHash is the textbook's selector: id modulo the number of queues.
type byHash struct{}

func (byHash) Select(m *primitive.Message, queues []*primitive.MessageQueue, _ string) *primitive.MessageQueue {
	hash, err := strconv.Atoi(m.GetShardingKey())
	if err != nil {
		return queues[0]
	}
	return queues[hash%len(queues)]
}

func run(verb string, args url.Values, answer func(lines.Row)) error {
	name := args.Get("name")
	resolver := primitive.NewPassthroughResolver([]string{args.Get("namesrv")})
	switch verb {
	case "producer":
		options := []producer.Option{
			producer.WithNsResolver(resolver), producer.WithGroupName(args.Get("group")), producer.WithInstanceName(name),
			producer.WithRetry(lines.Num(args, "retries", 2)), producer.WithSendMsgTimeout(5 * time.Second),
			producer.WithCompressMsgBodyOverHowmuch(lines.Num(args, "compressover", 1<<30)), producer.WithNamespace(args.Get("namespace")),
		}
		if lines.Get(args, "selector", "") == "hash" {
			options = append(options, producer.WithQueueSelector(byHash{}))
		}
		p, err := rocketmq.NewProducer(options...)
		if err != nil {
			return err
		}
		if err := p.Start(); err != nil {
			return err
		}
		lock.Lock()
		producers[name] = p
		lock.Unlock()
		return nil
	case "send":
		return send(args, answer)
	case "consumer":
		return subscribe(args)
	case "transactional":
		return startTransactional(args)
	case "transact":
		return sendTransactional(args, answer)
	case "puller":
		p, err := rocketmq.NewPullConsumer(consumer.WithNsResolver(resolver), consumer.WithGroupName(args.Get("group")),
			consumer.WithInstance(name))
		if err != nil {
			return err
		}
		if err := p.Subscribe(args.Get("topic"), consumer.MessageSelector{}); err != nil {
			return err
		}
		if err := p.Start(); err != nil {
			return err
		}
		lock.Lock()
		pullers[name] = p
		lock.Unlock()
		return nil
	case "pull":
		p, err := find(pullers, name)
		if err != nil {
			return err
		}
		queue := &primitive.MessageQueue{Topic: args.Get("topic"), BrokerName: args.Get("broker"), QueueId: lines.Num(args, "queue", 0)}
		result, err := p.PullFrom(context.Background(), queue, int64(lines.Num(args, "offset", 0)), lines.Num(args, "max", 32))
		if err != nil {
			return err
		}
		for _, m := range result.GetMessageExts() {
			answer(message(m))
		}
		status := map[primitive.PullStatus]string{primitive.PullFound: "FOUND", primitive.PullNoNewMsg: "NO_NEW_MSG",
			primitive.PullNoMsgMatched: "NO_MATCHED_MSG", primitive.PullOffsetIllegal: "OFFSET_ILLEGAL"}[result.Status]
		answer(lines.Row{}.Put("status", status).Put("next", result.NextBeginOffset).Put("min", result.MinOffset).Put("max", result.MaxOffset))
		return nil
	case "owned":
		c, err := find(consumers, name)
		if err != nil {
			return err
		}
		// The answer's type is in a package that nobody else may import, and over the wire it is empty while a rate is not a number.
		info := reflect.ValueOf(c).MethodByName("GetConsumerRunningInfo").Call([]reflect.Value{reflect.ValueOf(false)})[0]
		for _, key := range info.Elem().FieldByName("MQTable").MapKeys() {
			queue := key.Interface().(primitive.MessageQueue)
			answer(lines.Row{}.Put("topic", queue.Topic).Put("queue", queue.QueueId))
		}
		return nil
	case "stop":
		lock.Lock()
		p, c, l, t := producers[name], consumers[name], pullers[name], transactional[name]
		delete(producers, name)
		delete(transactional, name)
		delete(consumers, name)
		delete(pullers, name)
		lock.Unlock()
		if p != nil {
			return p.Shutdown()
		}
		if c != nil {
			return c.Shutdown()
		}
		if l != nil {
			return l.Shutdown()
		}
		if t != nil {
			return t.Shutdown()
		}
		return nil
	}
	return fmt.Errorf("unknown verb %q", verb)
}

func build(spec url.Values) *primitive.Message {
	body := []byte(spec.Get("body"))
	if spec.Has("fill") {
		body = make([]byte, lines.Num(spec, "fill", 0))
		for i := range body {
			body[i] = byte((i*31 + lines.Num(spec, "seed", 0)) % 251)
		}
	}
	m := primitive.NewMessage(spec.Get("topic"), body)
	m.Flag = int32(lines.Num(spec, "flag", 0))
	if spec.Has("tags") {
		m.WithTag(spec.Get("tags"))
	}
	if spec.Has("keys") {
		m.WithKeys(strings.Fields(spec.Get("keys")))
	}
	if spec.Has("hash") {
		m.WithShardingKey(spec.Get("hash"))
	}
	for key := range spec {
		if property, found := strings.CutPrefix(key, "p."); found {
			m.WithProperty(property, spec.Get(key))
		}
		// Properties of the system.
		if property, found := strings.CutPrefix(key, "s."); found {
			m.WithProperty(property, spec.Get(key))
		}
	}
	return m
}

func result(r *primitive.SendResult) lines.Row {
	status := "SEND_OK"
	if r.Status != primitive.SendOK {
		status = fmt.Sprint("status ", r.Status)
	}
	return lines.Row{}.Put("status", status).Put("id", r.MsgID).Put("offsetid", r.OffsetMsgID).Put("queue", r.MessageQueue.QueueId).
		Put("broker", r.MessageQueue.BrokerName).Put("offset", r.QueueOffset)
}

func send(args url.Values, answer func(lines.Row)) error {
	p, err := find(producers, args.Get("name"))
	if err != nil {
		return err
	}
	ctx := context.Background()
	tolerant := args.Get("tolerant") == "true"
	pace := time.Duration(lines.Num(args, "pace", 0)) * time.Millisecond
	var batch []*primitive.Message
	var answered sync.WaitGroup
	for index, text := range args["m"] {
		spec, err := url.ParseQuery(text)
		if err != nil {
			return err
		}
		m := build(spec)
		err = nil
		switch args.Get("mode") {
		case "sync", "selector", "":
			var r *primitive.SendResult
			if r, err = p.SendSync(ctx, m); err == nil {
				answer(result(r).Put("index", index))
			}
		case "oneway":
			err = p.SendOneWay(ctx, m)
		case "batch":
			batch = append(batch, m)
		case "async":
			answered.Add(1)
			err = p.SendAsync(ctx, func(_ context.Context, r *primitive.SendResult, err error) {
				defer answered.Done()
				if err != nil {
					answer(lines.Row{}.Put("index", index).Put("error", err))
				} else {
					answer(result(r).Put("index", index))
				}
			}, m)
		default:
			err = fmt.Errorf("unknown mode %q", args.Get("mode"))
		}
		if err != nil {
			if !tolerant {
				return err
			}
			answer(lines.Row{}.Put("index", index).Put("error", err))
		}
		time.Sleep(pace)
	}
	if len(batch) > 0 {
		r, err := p.SendSync(ctx, batch...)
		if err != nil {
			return err
		}
		answer(result(r))
	}
	done := make(chan struct{})
	go func() { answered.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-time.After(60 * time.Second):
		return errors.New("a callback never came")
	}
}

func message(m *primitive.MessageExt) lines.Row {
	r := lines.Row{}.Put("topic", m.Topic).Put("len", len(m.Body)).Put("crc", crc32.ChecksumIEEE(m.Body)).Put("id", m.MsgId).
		Put("flag", m.Flag).Put("sysflag", m.SysFlag).Put("born", m.BornTimestamp).Put("stored", m.StoreTimestamp).
		Put("bornhost", strings.Split(m.BornHost, ":")[0]).Put("storehost", m.StoreHost).Put("reconsume", m.ReconsumeTimes).
		Put("offset", m.QueueOffset).Put("physical", m.CommitLogOffset).Put("bodycrc", m.BodyCRC)
	if m.Queue != nil {
		r = r.Put("queue", m.Queue.QueueId).Put("broker", m.Queue.BrokerName)
	}
	if m.GetTags() != "" {
		r = r.Put("tags", m.GetTags())
	}
	if m.GetKeys() != "" {
		r = r.Put("keys", m.GetKeys())
	}
	if len(m.Body) <= 8192 && utf8.Valid(m.Body) {
		r = r.Put("body", string(m.Body))
	}
	for key, value := range m.GetProperties() {
		r = r.Put("p."+key, value)
	}
	return r
}

// All of a message, or only where it is.
func shown(m *primitive.MessageExt, brief bool) lines.Row {
	if brief {
		return lines.Row{}.Put("queue", m.Queue.QueueId).Put("offset", m.QueueOffset)
	}
	return message(m)
}

func subscribe(args url.Values) error {
	name := args.Get("name")
	model := consumer.Clustering
	if args.Get("model") == "BROADCASTING" {
		model = consumer.BroadCasting
	}
	from := consumer.ConsumeFromFirstOffset
	if args.Get("from") == "LAST_OFFSET" {
		from = consumer.ConsumeFromLastOffset
	}
	c, err := rocketmq.NewPushConsumer(
		consumer.WithNsResolver(primitive.NewPassthroughResolver([]string{args.Get("namesrv")})),
		consumer.WithGroupName(args.Get("group")), consumer.WithInstance(lines.Get(args, "instance", name)), consumer.WithConsumerModel(model),
		consumer.WithConsumeFromWhere(from), consumer.WithMaxReconsumeTimes(int32(lines.Num(args, "maxreconsume", -1))), consumer.WithConsumerOrder(args.Get("mode") == "orderly"),
		consumer.WithConsumeMessageBatchMaxSize(lines.Num(args, "batch", 1)), consumer.WithNamespace(args.Get("namespace")))
	if err != nil {
		return err
	}
	selector := consumer.MessageSelector{Type: consumer.TAG, Expression: lines.Get(args, "expression", "*")}
	if args.Has("sql") {
		selector = consumer.MessageSelector{Type: consumer.SQL92, Expression: args.Get("sql")}
	}
	// How long the listener takes for a message.
	pause, brief := time.Duration(lines.Num(args, "pause", 0))*time.Millisecond, args.Get("brief") == "true"
	listener := func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		later := false
		for _, m := range messages {
			time.Sleep(pause)
			lines.Line("event %s %s", name, shown(m, brief).Put("at", time.Now().UnixMilli()))
			// Every message is asked for again until it has come so often.
			later = later || int(m.ReconsumeTimes) < lines.Num(args, "fail", 0)
		}
		if later && args.Get("mode") == "orderly" {
			return consumer.SuspendCurrentQueueAMoment, nil
		}
		if later {
			return consumer.ConsumeRetryLater, nil
		}
		return consumer.ConsumeSuccess, nil
	}
	if err := c.Subscribe(args.Get("topic"), selector, listener); err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	lock.Lock()
	consumers[name] = c
	lock.Unlock()
	if args.Has("further") {
		// Subscribed to while it runs.
		return c.Subscribe(args.Get("further"), consumer.MessageSelector{}, listener)
	}
	return nil
}
