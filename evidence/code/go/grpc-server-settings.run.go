import _ "google.golang.org/grpc/encoding/proto"
import "google.golang.org/grpc/credentials/insecure"
import "google.golang.org/protobuf/types/known/emptypb"

func authUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	return next(ctx, req)
}

func authStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return status.Error(codes.Unauthenticated, "no token")
}

func recoverStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return next(srv, stream)
}

<<CELL>>

var service = grpc.ServiceDesc{
	ServiceName: "Test", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Panic", Handler: func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		var in emptypb.Empty
		if err := decode(&in); err != nil {
			return nil, err
		}
		return interceptor(ctx, &in, &grpc.UnaryServerInfo{FullMethod: "/Test/Panic"}, func(context.Context, any) (any, error) {
			var missing *emptypb.Empty
			return nil, errors.New(string(*(*[]byte)(nil)) + missing.String())
		})
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "List", ServerStreams: true, Handler: func(srv any, stream grpc.ServerStream) error {
		return stream.SendMsg(&emptypb.Empty{})
	}}},
}

// The child serves; a stream without a token, then a call whose handler dereferences nil, twice.
func main() {
	addr := lib.Address()
	if lib.Child() {
		listener, err := net.Listen("tcp", os.Getenv("ADDRESS"))
		if err != nil {
			panic(err)
		}
		srv.RegisterService(&service, nil)
		srv.Serve(listener)
		return
	}
	go lib.Isolated("ADDRESS=" + addr)
	lib.Listening(addr)
	conn, err := grpc.NewClient("passthrough:"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &service.Streams[0], "/Test/List")
	if err != nil {
		panic(err)
	}
	stream.SendMsg(&emptypb.Empty{})
	stream.CloseSend()
	list := status.Code(stream.RecvMsg(&emptypb.Empty{}))
	first := status.Code(conn.Invoke(ctx, "/Test/Panic", &emptypb.Empty{}, &emptypb.Empty{}))
	again := status.Code(conn.Invoke(ctx, "/Test/Panic", &emptypb.Empty{}, &emptypb.Empty{}))
	lib.Stop()
	lib.Verdict(list == codes.Unauthenticated && first == codes.Internal && again == codes.Internal,
		"stream without a token: %v; handler dereferences nil: %v, next call: %v", list, first, again)
}
